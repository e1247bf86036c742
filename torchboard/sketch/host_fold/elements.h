/* Reads the elements of a tensor in pieces, as floats or as doubles, and finds their extremes. NaN and infinities show in
 * these; then they are taken out and counted. */

#include "numbers.h"

static int64_t size_of(int type) { return type == FLOAT64 ? 8 : type == FLOAT32 ? 4 : 2; }

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

FOR_EACH_CPU static void widen_bfloat16(const uint16_t *raw, int64_t number, float *out) {
    for (int64_t i = 0; i < number; i++) {
        uint32_t bits = (uint32_t)raw[i] << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* By integer arithmetic, and one subtraction for denormal numbers, so that no mode of the processor flushes them. */
FOR_EACH_CPU static void widen_float16(const uint16_t *raw, int64_t number, float *out) {
    for (int64_t i = 0; i < number; i++) {
        uint32_t sign = (uint32_t)(raw[i] & 0x8000) << 16, magnitude = (uint32_t)(raw[i] & 0x7fff) << 13;
        uint32_t normal = magnitude + (112u << 23);
        float denormal = from_bits(magnitude + (113u << 23)) - from_bits(113u << 23);
        uint32_t small, bits;
        memcpy(&small, &denormal, sizeof small);
        bits = magnitude < 1u << 23 ? small : magnitude >= 31u << 23 ? normal + (112u << 23) : normal;
        bits |= sign;
        memcpy(out + i, &bits, sizeof bits);
    }
}

static const float *floats(const Elements *all, int64_t first, int64_t number, float *buffer) {
    const char *data = all->data + first * size_of(all->type);
    if (all->type == BFLOAT16)
        widen_bfloat16((const uint16_t *)data, number, buffer);
    else if (all->type == FLOAT16)
        widen_float16((const uint16_t *)data, number, buffer);
    else
        return (const float *)data;
    return buffer;
}

static const double *doubles(const Elements *all, int64_t first, int64_t number, double *buffer) {
    if (all->type == FLOAT64)
        return (const double *)all->data + first;
    const float *values = floats(all, first, number, scratch.halves);
    for (int64_t i = 0; i < number; i++)
        buffer[i] = values[i];
    return buffer;
}

#define SPECIALS(REAL)                                                                                                  \
    static int64_t without_specials_##REAL(const REAL *x, int64_t number, REAL *out, Found *found) {                    \
        int64_t kept = 0;                                                                                               \
        for (int64_t i = 0; i < number; i++) {                                                                          \
            REAL value = x[i];                                                                                          \
            found->nan += value != value;                                                                               \
            found->pos_inf += value == (REAL)INFINITY;                                                                  \
            found->neg_inf += value == (REAL)-INFINITY;                                                                 \
            out[kept] = value;                                                                                          \
            kept += value - value == 0;                                                                                 \
        }                                                                                                               \
        return kept;                                                                                                    \
    }

/* Bits in the order of the numbers they are, as integers, which a compiler may compare in any order. */
#define EXTREMES(REAL, INTEGER, LARGEST)                                                                                \
    FOR_EACH_CPU static void extremes_##REAL(const REAL *x, int64_t number, REAL *low, REAL *high) {                    \
        INTEGER least = LARGEST, greatest = -LARGEST - 1;                                                               \
        for (int64_t i = 0; i < number; i++) {                                                                          \
            INTEGER bits;                                                                                               \
            memcpy(&bits, x + i, sizeof bits);                                                                          \
            bits ^= (bits >> (8 * sizeof bits - 1)) & LARGEST;                                                          \
            least = bits < least ? bits : least;                                                                        \
            greatest = bits > greatest ? bits : greatest;                                                               \
        }                                                                                                               \
        least ^= (least >> (8 * sizeof least - 1)) & LARGEST;                                                           \
        greatest ^= (greatest >> (8 * sizeof greatest - 1)) & LARGEST;                                                  \
        memcpy(low, &least, sizeof least);                                                                              \
        memcpy(high, &greatest, sizeof greatest);                                                                       \
    }

/* A piece without specials, in the buffer if it had some; widens the extremes. */
#define LOOK(REAL)                                                                                                      \
    static const REAL *look_##REAL(const REAL *x, int64_t *number, REAL *buffer, Found *found) {                        \
        REAL low, high;                                                                                                 \
        extremes_##REAL(x, *number, &low, &high);                                                                       \
        if (!(low - low == 0 && high - high == 0)) {                                                                    \
            *number = without_specials_##REAL(x, *number, buffer, found);                                               \
            x = buffer;                                                                                                 \
            extremes_##REAL(x, *number, &low, &high);                                                                   \
        }                                                                                                               \
        if (*number) {                                                                                                  \
            found->low = low < found->low ? low : found->low;                                                           \
            found->high = high > found->high ? high : found->high;                                                      \
        }                                                                                                               \
        return x;                                                                                                       \
    }

SPECIALS(float) SPECIALS(double)
EXTREMES(float, int32_t, INT32_MAX) EXTREMES(double, int64_t, INT64_MAX)
LOOK(float) LOOK(double)

static int64_t piece_at(const Elements *all, int64_t first) {
    return all->number - first < PIECE ? all->number - first : PIECE;
}

/* What is read after a piece; the piece itself if that is the last. */
static const char *behind(const Elements *all, int64_t first) {
    int64_t next = first + PIECE < all->number ? first + PIECE : first;
    return all->data + next * size_of(all->type);
}

static Found extremes_of(const Elements *all, int64_t number) {
    Found found = NOTHING;
    for (int64_t first = 0; first < number; first += PIECE) {
        int64_t piece = piece_at(all, first);
        if (all->type == FLOAT64)
            look_double(doubles(all, first, piece, scratch.piece.wide), &piece, scratch.piece.wide, &found);
        else
            look_float(floats(all, first, piece, scratch.piece.narrow), &piece, scratch.piece.narrow, &found);
    }
    return found;
}
