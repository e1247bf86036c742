/* The numbers of layout.py, those of this folder, and the memory that a thread works in. */

#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif
#define ALWAYS_INLINE __attribute__((always_inline)) inline

enum { MANTISSA_BITS = 5, BINADES = 63, BINADES_ABOVE = 24 };
enum { SIDE = (BINADES << MANTISSA_BITS) + 1, BINS = 2 * SIDE };
enum { COUNT, SPIKE, ZEROS, NAN_, POS_INF, NEG_INF, SUM, SUM_SQUARES, NEGATED_MIN, MAX, SLOTS };
enum { PIVOT, SCALE, KIND, PARAMETERS };
enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
static const double NARROW = 16.0;

enum {
    SIGN = 256 << MANTISSA_BITS,                  /* codes of one sign */
    CODES = 2 * SIGN,
    LOWEST_UNIT = BINADES - BINADES_ABOVE - 127,  /* |y| = 1 at this exponent: the lowest binade is that of denormals */
    ZERO_CODES = 255 << MANTISSA_BITS,            /* the first of 32 codes that only infinities and NaN would have */
    ZERO_BINS = BINS,                             /* likewise behind the bins */
    ZERO_PLACES = 32,
    BLOCK = 16,                                   /* counters that are skipped together where all are zero */
    BIN_PLACES = (ZERO_BINS + ZERO_PLACES + BLOCK - 1) / BLOCK * BLOCK,
    PIECE = 4096,
    FEW = 256,                                    /* up to here a row's own counters are faster than counters beside it */
    SMALL = 4 * PIECE,                            /* up to here what is counted is not kept for another row */
    SAMPLE = 1024,
    MOST_THREADS = 64,
    NOT_DONE = -1,
};
/* Changes with what Python sees and with the numbers of layout.py. */
enum { VERSION = 5000000 + BINS * 100 + SLOTS };
static const int64_t WORTH_THREADS = 1 << 17, WORTH_A_THREAD = 1 << 16;

typedef struct {
    const char *data;
    int64_t number;
    int type;
} Elements;

/* What elements add up to, as they are or seen from a pivot. The least magnitude of floats that are not zero is twice its
 * bits, so without the sign, less one, which makes zero the greatest of all. */
typedef struct {
    double low, high, sum, squares;
    int64_t spike, zeros, nan, pos_inf, neg_inf;
    uint32_t least;
} Found;

/* Places in a row of counters, the last one included; none where the first is behind it. */
typedef struct {
    int first, last;
} Span;

typedef struct {
    int64_t *counts;
    double *moments, *parameters;
} Row;

typedef struct {
    union {
        float narrow[PIECE];
        double wide[PIECE];
    } piece;                                  /* that had to be converted, or freed of NaN */
    float halves[PIECE];                      /* on their way to doubles */
    uint16_t codes[PIECE];
    uint32_t bins[2][BIN_PLACES];             /* neighbours are counted apart: one would wait for the other's addition */
    uint32_t table[2][CODES];                 /* likewise */
    Span used;                                /* of the table, in codes of either sign; all else is zero, or of zeros */
    Found kept;                               /* what the table holds, of which fold */
    int64_t kept_number, kept_times, kept_serial;
} Scratch;

static _Thread_local Scratch scratch;
static int64_t last_serial;

typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));
typedef uint32_t Counters __attribute__((vector_size(BLOCK * 4)));
typedef int64_t Bins __attribute__((vector_size(BLOCK * 8)));

static const Found NOTHING = {.low = INFINITY, .high = -INFINITY, .least = UINT32_MAX};
