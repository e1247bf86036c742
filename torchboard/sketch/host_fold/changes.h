/* By how much numbers in memory change: a sample of them is kept, and later taken off what lies there then. */

#include "fold.h"

static int changes_type(int type) { return type == FLOAT64 ? FLOAT64 : FLOAT32; }

enum { AHEAD = 32 }; /* so many steps before they are read, lines of memory are asked for */

/* Every ``step``-th element from a place on, counted in such steps. */
static const float *every_float(const Elements *all, int64_t step, int64_t first, int64_t number, float *buffer) {
    if (step == 1)
        return floats(all, first, number, buffer);
    for (int64_t i = 0; i < number; i++) {
        int64_t place = (first + i) * step, later = place + AHEAD * step;
        __builtin_prefetch(all->data + (later < all->number ? later : place) * size_of(all->type));
        buffer[i] = all->type == FLOAT32 ? ((const float *)all->data)[place] : *floats(all, place, 1, buffer + i);
    }
    return buffer;
}

static const double *every_double(const Elements *all, int64_t step, int64_t first, int64_t number, double *buffer) {
    if (step == 1)
        return doubles(all, first, number, buffer);
    for (int64_t i = 0; i < number; i++)
        buffer[i] = *doubles(all, (first + i) * step, 1, buffer + i);
    return buffer;
}

/* Takes ``values`` off a sample of the elements, and leaves the rest in ``values``: of zeros that is the sample. */
#define SUBTRACT_FROM(REAL, BUFFER)                                                                                     \
    FOR_EACH_CPU static void subtract_from_##REAL##s(const Elements *all, int64_t step, REAL *values, int64_t number) { \
        for (int64_t first = 0; first < number; first += PIECE) {                                                       \
            int64_t piece = number - first < PIECE ? number - first : PIECE;                                            \
            const REAL *x = every_##REAL(all, step, first, piece, BUFFER);                                              \
            for (int64_t i = 0; i < piece; i++)                                                                         \
                values[first + i] = x[i] - values[first + i];                                                           \
        }                                                                                                               \
    }

SUBTRACT_FROM(float, scratch.piece.narrow)
SUBTRACT_FROM(double, scratch.piece.wide)

static void subtract_from(const Elements *all, int64_t step, void *values, int64_t number) {
    if (changes_type(all->type) == FLOAT64)
        subtract_from_doubles(all, step, values, number);
    else
        subtract_from_floats(all, step, values, number);
}
