/* The least and the greatest value of each unit of a tensor: of each place along one of its axes. */

#include "changes.h"

enum { RUN = 16 }; /* so many values of a unit that lie together are worth a look at all of them */

typedef int32_t Ints __attribute__((vector_size(32)));

/* One where the mask has it, and the other elsewhere. */
#define CHOSEN(MASK, ONE, OTHER) ((Floats)(((MASK) & (Ints)(ONE)) | (~(MASK) & (Ints)(OTHER))))

/* NaN is both less and greater than all else. */
static void widen_one(float *low, float *high, float least, float greatest) {
    *low = *low != *low || least >= *low ? *low : least;
    *high = *high != *high || greatest <= *high ? *high : greatest;
}

/* Neighbours are of different units. */
FOR_EACH_CPU static void widen_row(const float *x, int64_t units, float *low, float *high) {
    int64_t unit = 0;
    for (; unit + 8 <= units; unit += 8) {
        Floats values, least, greatest;
        memcpy(&values, x + unit, sizeof values);
        memcpy(&least, low + unit, sizeof least);
        memcpy(&greatest, high + unit, sizeof greatest);
        least = CHOSEN((least != least) | (values >= least), least, values);
        greatest = CHOSEN((greatest != greatest) | (values <= greatest), greatest, values);
        memcpy(low + unit, &least, sizeof least);
        memcpy(high + unit, &greatest, sizeof greatest);
    }
    for (; unit < units; unit++)
        widen_one(low + unit, high + unit, x[unit], x[unit]);
}

/* Units of few values each: some units of all examples, and then the values of each unit. */
static void widen_few(const float *x, int64_t number, int64_t units, int64_t inner, float *low, float *high) {
    float *least = scratch.piece.narrow, *greatest = scratch.halves;
    for (int64_t first = 0; first < units; first += PIECE / RUN) {
        int64_t some = units - first < PIECE / RUN ? units - first : PIECE / RUN;
        for (int64_t i = 0; i < some * inner; i++) {
            least[i] = INFINITY;
            greatest[i] = -INFINITY;
        }
        for (int64_t example = 0; example < number; example += units * inner)
            widen_row(x + example + first * inner, some * inner, least, greatest);
        for (int64_t i = 0; i < some * inner; i++)
            widen_one(low + first + i / inner, high + first + i / inner, least[i], greatest[i]);
    }
}

/* ``number`` values, each unit's ``inner`` of them together, all units one after another, again and again. */
static void widen(const float *x, int64_t number, int64_t units, int64_t inner, float *low, float *high) {
    if (inner == 1) {
        for (int64_t example = 0; example < number; example += units)
            widen_row(x + example, units, low, high);
        return;
    }
    if (inner < RUN) {
        widen_few(x, number, units, inner, low, high);
        return;
    }
    for (int64_t run = 0; run * inner < number; run++) {
        float least, greatest;
        extremes_float(x + run * inner, inner, &least, &greatest);
        widen_one(low + run % units, high + run % units, least, greatest);
    }
}
