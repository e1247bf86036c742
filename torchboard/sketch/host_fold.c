/* Folds a float tensor in the host's memory into one row of a sketch: what host.py does with torch's operations, in one
 * pass over the memory and without any of their starts.
 *
 * The bins and figures are those of layout.py, whose numbers are repeated below; sums are in double precision. A tensor
 * is read in pieces that stay in the innermost cache: each takes a pass for the extremes, which show NaN and infinities,
 * one for the sums, one for the codes (sign, exponent, five leading mantissa bits) and one to count them. Equal to zero
 * are many behind a ReLU: zeros get codes that no number has, one after another, so that counting never waits for itself.
 *
 * Two ways lead to the bins. Numbers of up to 32 bits around a pivot of zero are counted by their codes, and codes move to
 * bins when the extremes, and with them the scale, are known. All else is read twice, and looked at as doubles.
 */

#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

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
    SMALL = 4 * PIECE,                            /* up to here codes are kept, and the large table is not touched */
    TINY = 512,                                   /* up to here a row's own counters are faster than counters beside it */
    SAMPLE = 1024,
    MOST_THREADS = 64,
};
static const int64_t WORTH_THREADS = 1 << 17, WORTH_A_THREAD = 1 << 16;

typedef struct {
    const char *data;
    int64_t number;
    int type;
} Elements;

/* What elements add up to, as they are or seen from a pivot. */
typedef struct {
    double low, high, sum, squares;
    int64_t spike, zeros, nan, pos_inf, neg_inf;
} Found;

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
    uint16_t codes[SMALL];
    uint32_t bins[2][BIN_PLACES];             /* neighbours are counted apart: one would wait for the other's addition */
    uint32_t table[2][CODES];                 /* likewise */
    Found kept;                               /* what the table holds, of which fold */
    int64_t kept_number, kept_times, kept_serial;
} Scratch;

static _Thread_local Scratch scratch;
static int64_t last_serial;

typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));

static const Found NOTHING = {.low = INFINITY, .high = -INFINITY};

/* ---- reading ---- */

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

/* ---- extremes; NaN and infinities are taken out and counted ---- */

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

static const char *behind(const Elements *all, int64_t first) { return all->data + (first + PIECE) * size_of(all->type); }

static Found extremes_of(const Elements *all, int64_t number) {
    Found found = NOTHING;
    for (int64_t first = 0; first < number; first += PIECE) {
        int64_t piece = piece_at(all, first);
        const double *x = doubles(all, first, piece, scratch.piece.wide);
        look_double(x, &piece, scratch.piece.wide, &found);
    }
    return found;
}

/* ---- counting codes ---- */

FOR_EACH_CPU static void add_up(const float *x, int64_t number, double *sum, double *squares) {
    Doubles sums[4] = {{0}}, products[4] = {{0}};
    int64_t i = 0;
    for (; i + 32 <= number; i += 32)
        for (int lane = 0; lane < 4; lane++) {
            Floats some;
            memcpy(&some, x + i + 8 * lane, sizeof some);
            Doubles values = __builtin_convertvector(some, Doubles);
            sums[lane] += values;
            products[lane] += values * values;
        }
    for (; i < number; i++) {
        sums[0][0] += x[i];
        products[0][0] += (double)x[i] * x[i];
    }
    for (int place = 0; place < 32; place++) {
        *sum += sums[place / 8][place % 8];
        *squares += products[place / 8][place % 8];
    }
}

/* Codes of finite numbers; gives how many are zero. */
FOR_EACH_CPU static int64_t encode(const float *x, int64_t number, uint16_t *codes) {
    uint32_t zeros = 0;
    for (uint32_t i = 0; i < (uint32_t)number; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        uint32_t zero = bits << 1 == 0;
        codes[i] = (uint16_t)(zero ? ZERO_CODES + i % ZERO_PLACES : bits >> (23 - MANTISSA_BITS));
        zeros += zero;
    }
    return zeros;
}

/* Counts codes, the neighbours apart; meanwhile the memory that is read next comes nearer. */
static void count(const uint16_t *codes, int64_t number, uint32_t *even, uint32_t *odd, const char *next) {
    int64_t i = 0;
    for (; i + 4 <= number; i += 4) {
        uint64_t four;
        __builtin_prefetch(next + 4 * i);
        memcpy(&four, codes + i, sizeof four);
        even[four & 0xffff]++;
        odd[four >> 16 & 0xffff]++;
        even[four >> 32 & 0xffff]++;
        odd[four >> 48]++;
    }
    for (; i < number; i++)
        even[codes[i]]++;
}

/* Looks at elements of up to 32 bits; their codes go into this thread's table, or, if they are few, stay codes. Gives the
 * number of codes that stay. */
static int64_t look_at(const Elements *all, Found *found) {
    int few = all->number <= SMALL;
    int64_t codes = 0;
    float *buffer = scratch.piece.narrow;
    if (!few)
        memset(scratch.table, 0, sizeof scratch.table);
    for (int64_t first = 0; first < all->number; first += PIECE) {
        int64_t number = piece_at(all, first);
        const float *x = look_float(floats(all, first, number, buffer), &number, buffer, found);
        add_up(x, number, &found->sum, &found->squares);
        found->zeros += encode(x, number, scratch.codes + codes);
        if (few)
            codes += number;
        else
            count(scratch.codes, number, scratch.table[0], scratch.table[1], behind(all, first));
    }
    return codes;
}

/* ---- on several threads: those of torch's own OpenMP, which would otherwise wait for the processor beside ours ---- */

typedef struct {
    Elements elements;
    Found found;
    uint32_t (*table)[CODES];
} Part;

typedef struct {
    Part parts[MOST_THREADS];
    int number, next;
} Parts;

static void work(void *shared) {
    Parts *parts = shared;
    int place = __atomic_fetch_add(&parts->next, 1, __ATOMIC_RELAXED);
    if (place < parts->number) { /* one a thread: the table is the thread's own */
        Part *part = &parts->parts[place];
        part->found = NOTHING;
        look_at(&part->elements, &part->found);
        part->table = scratch.table;
    }
}

static void merge(Found *found, const Found *other) {
    found->low = fmin(found->low, other->low);
    found->high = fmax(found->high, other->high);
    found->sum += other->sum;
    found->squares += other->squares;
    found->zeros += other->zeros;
    found->nan += other->nan;
    found->pos_inf += other->pos_inf;
    found->neg_inf += other->neg_inf;
}

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

static int look_at_in_parallel(const Elements *all, Found *found, int threads) {
    Parallel parallel = (Parallel)dlsym(RTLD_DEFAULT, "GOMP_parallel");
    int64_t most = all->number / WORTH_A_THREAD;
    threads = threads < most ? threads : (int)most;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    if (!parallel || threads < 2 || all->number < WORTH_THREADS)
        return 0;
    Parts parts = {.number = threads, .next = 0};
    int64_t each = (all->number + threads - 1) / threads;
    for (int place = 0; place < threads; place++) {
        int64_t first = place * each, left = all->number - first;
        parts.parts[place].elements =
            (Elements){all->data + first * size_of(all->type), left < each ? left : each, all->type};
    }
    parallel(work, &parts, (unsigned)threads, 0);
    if (parts.next < parts.number) /* fewer threads came than were asked for */
        return 0;
    for (int place = 0; place < threads; place++) {
        Part *part = &parts.parts[place];
        merge(found, &part->found);
        if (part->table != scratch.table)
            for (int lane = 0; lane < 2; lane++)
                for (int code = 0; code < CODES; code++)
                    scratch.table[lane][code] += part->table[lane][code];
    }
    return 1;
}

/* ---- pivot and scale, by the rules of layout.py ---- */

static int wants_pivot(double low, double high) {
    return (low > 0 && high < NARROW * low) || (high < 0 && -low < -NARROW * high);
}

static double choose_pivot(double low, double high, double mean, double std) {
    double inner = fabs(fmax(low, mean - 0.5 * std)), outer = fabs(fmin(high, mean + 0.5 * std));
    double small = fmin(inner, outer), large = fmax(inner, outer), magnitude;
    uint64_t from, to, differing;
    memcpy(&from, &small, sizeof from);
    memcpy(&to, &large, sizeof to);
    for (differing = 0; (from ^ to) & ~differing; differing = differing << 1 | 1) {}
    to &= ~(differing >> 1);
    memcpy(&magnitude, &to, sizeof magnitude);
    return copysign(magnitude, low);
}

static double choose_scale(double distance, double pivot) {
    int exponent;
    frexp(distance ? distance : pivot ? fabs(pivot) : 1.0, &exponent);
    exponent = exponent - 1 < -1022 ? -1022 : exponent - 1 > 1022 ? 1022 : exponent - 1;
    return ldexp(1.0, -exponent);
}

static double pivot_of(const Elements *all) {
    Found found = extremes_of(all, piece_at(all, 0));
    if (found.low <= found.high && !wants_pivot(found.low, found.high))
        return 0;
    if (all->number > PIECE)
        found = extremes_of(all, all->number);
    if (!(found.low <= found.high) || !wants_pivot(found.low, found.high))
        return 0;
    double sum = 0, squares = 0, met = 0;
    int64_t stride = all->number / SAMPLE < 2 ? 1 : all->number / SAMPLE;
    for (int64_t i = 0; i < SAMPLE && i < all->number; i++) {
        double value;
        value = *doubles(all, i * stride + ((i * 2654435761) >> 7) % stride, 1, &value) - found.low;
        if (value - value == 0) {
            sum += value;
            squares += value * value;
            met++;
        }
    }
    double mean = met ? sum / met : 0, variance = met ? squares / met - mean * mean : 0;
    return choose_pivot(found.low, found.high, found.low + mean, sqrt(fmax(variance, 0)));
}

/* The scale that a row has, or will have when these elements are in it. */
static double scale_of(const Row *row, double pivot, const Found *found) {
    double low = -row->moments[NEGATED_MIN], high = row->moments[MAX], scale = row->parameters[SCALE];
    double distance = fmax(fabs(found->low - pivot), fabs(found->high - pivot));
    int only_spike = (low == high && low == row->parameters[PIVOT]) || low > high;
    return !scale || (distance && only_spike) ? choose_scale(distance, pivot) : scale;
}

/* ---- a row takes what was found ---- */

static void add_figures(Row *row, const Found *found, int64_t number, int64_t times, double pivot, double scale) {
    double *mine = row->moments, weight = (double)times;
    if (found->low <= found->high) {
        row->parameters[PIVOT] = pivot;
        row->parameters[SCALE] = scale;
    }
    mine[COUNT] += (double)number * weight;
    mine[SPIKE] += (double)found->spike * weight;
    mine[ZEROS] += (double)found->zeros * weight;
    mine[NAN_] += (double)found->nan * weight;
    mine[POS_INF] += (double)found->pos_inf * weight;
    mine[NEG_INF] += (double)found->neg_inf * weight;
    mine[SUM] += found->sum * weight;
    mine[SUM_SQUARES] += found->squares * weight;
    mine[NEGATED_MIN] = fmax(mine[NEGATED_MIN], -found->low);
    mine[MAX] = fmax(mine[MAX], found->high);
}

FOR_EACH_CPU static int any(const uint32_t *one, const uint32_t *other) {
    uint32_t met = 0;
    for (int place = 0; place < BLOCK; place++)
        met |= one[place] | other[place];
    return met != 0;
}

/* Adds this thread's bins to a row's, touching none that nothing is for. */
static void add_bins(int64_t *counts, int64_t times) {
    for (int block = 0; block < BINS; block += BLOCK)
        if (any(scratch.bins[0] + block, scratch.bins[1] + block))
            for (int bin = block; bin < block + BLOCK && bin < BINS; bin++)
                counts[bin] += (int64_t)(scratch.bins[0][bin] + scratch.bins[1][bin]) * times;
}

static int first_code(double scale) { return (-ilogb(scale) - LOWEST_UNIT) * (1 << MANTISSA_BITS); }

static void add_table(int64_t *counts, int first, int64_t times) {
    for (int block = 0; block < CODES; block += BLOCK) {
        int side = block >= SIGN;
        if ((!side && block >= ZERO_CODES) || !any(scratch.table[0] + block, scratch.table[1] + block))
            continue;
        for (int code = block; code < block + BLOCK; code++) {
            int bin = code - side * SIGN - first;
            int64_t met = (int64_t)scratch.table[0][code] + scratch.table[1][code];
            counts[side * SIDE + (bin < 0 ? 0 : bin < SIDE ? bin : SIDE - 1)] += met * times;
        }
    }
}

FOR_EACH_CPU static void bins_of(uint16_t *codes, int64_t number, int first) {
    for (int64_t i = 0; i < number; i++) {
        int code = codes[i], left = code >= SIGN, bin = code - (left ? SIGN : 0) - first;
        bin = (bin < 0 ? 0 : bin < SIDE ? bin : SIDE - 1) + (left ? SIDE : 0);
        codes[i] = (uint16_t)(!left && code >= ZERO_CODES ? code - ZERO_CODES + ZERO_BINS : bin);
    }
}

/* Adds what look_at found to a row whose pivot is, or will be, zero. */
static void take(Row *row, Found found, int64_t number, int64_t codes, int64_t times, double scale) {
    if (number > SMALL)
        add_table(row->counts, first_code(scale), times);
    else if (codes <= TINY) {
        bins_of(scratch.codes, codes, first_code(scale));
        for (int64_t i = 0; i < codes; i++)
            if (scratch.codes[i] < BINS)
                row->counts[scratch.codes[i]] += times;
    } else {
        memset(scratch.bins, 0, sizeof scratch.bins);
        bins_of(scratch.codes, codes, first_code(scale));
        count(scratch.codes, codes, scratch.bins[0], scratch.bins[1], (const char *)scratch.codes);
        add_bins(row->counts, times);
    }
    found.spike = found.zeros;
    found.sum *= scale;
    found.squares *= scale * scale;
    add_figures(row, &found, number, times, 0.0, scale);
}

/* ---- looked at as doubles ---- */

FOR_EACH_CPU static void add_doubles(const double *x, int64_t number, double pivot, double scale, Found *found) {
    const double lowest = 0x1p-39, highest = 0x1p24; /* BINADES_ABOVE - BINADES, BINADES_ABOVE */
    const int64_t first = (int64_t)(1023 + BINADES_ABOVE - BINADES) << MANTISSA_BITS;
    int64_t spike = 0, zeros = 0;
    for (int64_t i = 0; i < number; i++) {
        double distance = x[i] - pivot, magnitude = fabs(distance * scale);
        int64_t bits, equal = distance == 0;
        magnitude = magnitude < lowest ? lowest : magnitude;
        magnitude = magnitude > highest ? highest : magnitude;
        memcpy(&bits, &magnitude, sizeof bits);
        int64_t bin = (bits >> (52 - MANTISSA_BITS)) - first + (distance < 0 ? SIDE : 0);
        scratch.codes[i] = (uint16_t)(equal ? ZERO_BINS + i % ZERO_PLACES : bin);
        spike += equal;
        zeros += x[i] == 0;
    }
    found->spike += spike;
    found->zeros += zeros;
    Doubles sums = {0}, products = {0};
    int64_t i = 0;
    for (; i + 8 <= number; i += 8) {
        Doubles values;
        memcpy(&values, x + i, sizeof values);
        values = (values - pivot) * scale;
        sums += values;
        products += values * values;
    }
    for (; i < number; i++) {
        double value = (x[i] - pivot) * scale;
        sums[0] += value;
        products[0] += value * value;
    }
    for (int lane = 0; lane < 8; lane++) {
        found->sum += sums[lane];
        found->squares += products[lane];
    }
}

static int64_t fold_doubles(Row *row, const Elements *all, int64_t times, double pivot) {
    Found extremes = extremes_of(all, all->number), found = NOTHING;
    double scale = row->parameters[SCALE];
    if (extremes.low <= extremes.high) {
        scale = scale_of(row, pivot, &extremes);
        double farthest = fmax(fabs(extremes.low - pivot), fabs(extremes.high - pivot)) * scale;
        if (!(farthest < 1e150))
            return -1;
        memset(scratch.bins, 0, sizeof scratch.bins);
        for (int64_t first = 0; first < all->number; first += PIECE) {
            int64_t number = piece_at(all, first);
            const double *x = doubles(all, first, number, scratch.piece.wide);
            x = look_double(x, &number, scratch.piece.wide, &found);
            add_doubles(x, number, pivot, scale, &found);
            count(scratch.codes, number, scratch.bins[0], scratch.bins[1], behind(all, first));
        }
        add_bins(row->counts, times);
    } else
        found = extremes;
    add_figures(row, &found, all->number, times, pivot, scale);
    return 0;
}

/* ---- what Python calls ---- */

/* Changes with this file's functions and with the numbers of layout.py. */
int64_t torchboard_fold_version(void) { return 2000000 + BINS * 100 + SLOTS; }

/* Adds elements, each of them ``times`` times, to one row of three buffers. Gives a number that ``torchboard_fold_again``
 * knows, zero where that cannot be used, and -1 if nothing was done because the elements need more care. */
int64_t torchboard_fold(int64_t *counts, double *moments, double *parameters, int64_t row_number, const void *data,
                        int64_t number, int type, int64_t times, int threads) {
    Row row = {counts + row_number * BINS, moments + row_number * SLOTS, parameters + row_number * PARAMETERS};
    Elements all = {data, number, type};
    if (row.parameters[KIND] != 0 || number >= INT32_MAX)
        return -1;
    double pivot = row.parameters[SCALE] ? row.parameters[PIVOT] : pivot_of(&all);
    if (type == FLOAT64 || pivot != 0)
        return fold_doubles(&row, &all, times, pivot);
    Found found = NOTHING;
    int64_t codes = 0;
    if (number > SMALL)
        scratch.kept_serial = 0;
    if (!look_at_in_parallel(&all, &found, threads))
        codes = look_at(&all, &found);
    double scale = found.low <= found.high ? scale_of(&row, 0, &found) : row.parameters[SCALE];
    if (scale && -ilogb(scale) <= LOWEST_UNIT)
        return fold_doubles(&row, &all, times, 0);
    take(&row, found, number, codes, times, scale);
    if (number <= SMALL)
        return 0;
    scratch.kept = found;
    scratch.kept_number = number;
    scratch.kept_times = times;
    return scratch.kept_serial = __atomic_add_fetch(&last_serial, 1, __ATOMIC_RELAXED);
}

/* Folds several tensors into rows, five numbers each: row, address, elements, type, times. Gives how many need more care;
 * their row is then -1. */
int64_t torchboard_fold_many(int64_t *counts, double *moments, double *parameters, int64_t (*folds)[5], int64_t number,
                             int threads) {
    int64_t left = 0;
    for (int64_t i = 0; i < number; i++) {
        int64_t *fold = folds[i];
        if (torchboard_fold(counts, moments, parameters, fold[0], (const void *)fold[1], fold[2], (int)fold[3], fold[4],
                            threads) == -1) {
            fold[0] = -1;
            left++;
        }
    }
    return left;
}

/* Adds what a fold added to another row; 0, and nothing done, if this thread has it no longer or the row looks at numbers in
 * another way. */
int64_t torchboard_fold_again(int64_t *counts, double *moments, double *parameters, int64_t row_number, int64_t serial) {
    Row row = {counts + row_number * BINS, moments + row_number * SLOTS, parameters + row_number * PARAMETERS};
    const Found *kept = &scratch.kept;
    if (serial != scratch.kept_serial || row.parameters[KIND] != 0 || !(kept->low <= kept->high))
        return 0;
    if (row.parameters[SCALE] ? row.parameters[PIVOT] != 0 : wants_pivot(kept->low, kept->high))
        return 0;
    double scale = scale_of(&row, 0, kept);
    if (-ilogb(scale) <= LOWEST_UNIT)
        return 0;
    take(&row, *kept, scratch.kept_number, 0, scratch.kept_times, scale);
    return 1;
}
