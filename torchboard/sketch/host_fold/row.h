/* A row of the sketch: its pivot and scale, by the rules of layout.py, and how figures and counters are added to it. */

#include "elements.h"

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

/* The pivot for a row that has none; where it is not zero, the extremes of all elements too. */
static double pivot_of(const Elements *all, Found *extremes) {
    Found found = extremes_of(all, piece_at(all, 0));
    if (found.low <= found.high && !wants_pivot(found.low, found.high))
        return 0;
    if (all->number > PIECE)
        found = extremes_of(all, all->number);
    if (!(found.low <= found.high) || !wants_pivot(found.low, found.high))
        return 0;
    *extremes = found;
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

/* What two blocks of counters add up to; 0 if that is nothing. */
ALWAYS_INLINE static int add_blocks(const uint32_t *one, const uint32_t *other, Counters *sum) {
    Counters more;
    uint64_t pairs[BLOCK / 2];
    memcpy(sum, one, sizeof *sum);
    memcpy(&more, other, sizeof more);
    *sum += more;
    memcpy(pairs, sum, sizeof pairs);
    return ((pairs[0] | pairs[1]) | (pairs[2] | pairs[3]) | (pairs[4] | pairs[5]) | (pairs[6] | pairs[7])) != 0;
}

static void clear_bins(void) { memset(scratch.bins, 0, sizeof scratch.bins); }

/* Adds a block of counters to as many bins. */
ALWAYS_INLINE static void add_block(int64_t *bins, const Counters *met, int64_t times) {
    Bins before;
    memcpy(&before, bins, sizeof before);
    before += __builtin_convertvector(*met, Bins) * times;
    memcpy(bins, &before, sizeof before);
}

/* Adds this thread's bins to a row's, touching none that nothing is for. */
FOR_EACH_CPU static void add_bins(int64_t *counts, int64_t times) {
    Counters met;
    for (int block = 0; block < BINS; block += BLOCK)
        if (add_blocks(scratch.bins[0] + block, scratch.bins[1] + block, &met)) {
            if (block + BLOCK <= BINS)
                add_block(counts + block, &met, times);
            else
                for (int bin = block; bin < BINS; bin++)
                    counts[bin] += (int64_t)met[bin - block] * times;
        }
}

/* Counts the bins of few elements in the row itself, but for those of zeros, which no row has. */
static void add_each(int64_t *counts, uint16_t *bins, int64_t number, int64_t zeros, int64_t times) {
    if (zeros) {
        int64_t kept = 0;
        for (int64_t i = 0; i < number; i++) {
            bins[kept] = bins[i];
            kept += bins[i] < BINS;
        }
        number = kept;
    }
    for (int64_t i = 0; i < number; i++)
        counts[bins[i]] += times;
}

/* Zero where there is no scale, and so no number to count. */
static int first_code(double scale) { return scale ? (-ilogb(scale) - LOWEST_UNIT) * (1 << MANTISSA_BITS) : 0; }

static int bin_of(int code, int first) { return code < first ? 0 : code - first < SIDE ? code - first : SIDE - 1; }

/* Adds this thread's codes to a row's bins, touching none that nothing is for. A block of codes lies in the bins whole, or below
 * or above them. */
FOR_EACH_CPU static void add_table(int64_t *counts, int first, int64_t times) {
    const int behind = first + SIDE - 1;
    const Span used = scratch.used;
    for (int side = 0; side < 2; side++) {
        const uint32_t *one = scratch.table[0] + side * SIGN, *other = scratch.table[1] + side * SIGN;
        int64_t *bins = counts + side * SIDE;
        for (int block = used.first / BLOCK * BLOCK; block <= used.last; block += BLOCK) {
            Counters met;
            if (!add_blocks(one + block, other + block, &met))
                continue;
            if (first <= block && block < behind)
                add_block(bins + block - first, &met, times);
            else
                for (int code = 0; code < BLOCK; code++)
                    bins[bin_of(block, first)] += (int64_t)met[code] * times;
        }
    }
}
