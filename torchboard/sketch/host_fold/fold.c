/* Folds a float tensor in the host's memory into one row of a sketch: what host.py does with torch's operations, in one
 * pass over the memory and without any of their starts.
 *
 * The bins and figures are those of layout.py, whose numbers are repeated in numbers.h; sums are in double precision. A tensor
 * is read in pieces that stay in the innermost cache: each takes a pass for the extremes, which show NaN and infinities,
 * one for the sums, one for the codes (sign, exponent, five leading mantissa bits) and one to count them. Equal to zero
 * are many behind a ReLU: zeros get codes that no number has, one after another, so that counting never waits for itself.
 *
 * Two ways lead to the bins. Numbers of up to 32 bits around a pivot of zero are counted by their codes, and codes move to
 * bins when the extremes, and with them the scale, are known. All else is read twice, and looked at as doubles.
 */

#include "codes.h"

FOR_EACH_CPU static void bins_of(uint16_t *codes, int64_t number, int first) {
    for (int64_t i = 0; i < number; i++) {
        int code = codes[i], left = code >= SIGN;
        int bin = bin_of(code - (left ? SIGN : 0), first) + (left ? SIDE : 0);
        codes[i] = (uint16_t)(!left && code >= ZERO_CODES ? code - ZERO_CODES + ZERO_BINS : bin);
    }
}

/* Adds what look_at found to a row whose pivot is, or will be, zero. */
static void take(Row *row, Found found, int64_t number, int64_t codes, int64_t times, double scale) {
    if (number > SMALL)
        add_table(row->counts, first_code(scale), times);
    else if (codes <= TINY) {
        bins_of(scratch.codes, codes, first_code(scale));
        add_each(row->counts, scratch.codes, codes, found.zeros, times);
    } else {
        int first = first_code(scale);
        Span span = span_of(&found);
        if (span.first <= span.last)
            span = (Span){bin_of(span.first, first), bin_of(span.last, first)};
        clear_bins(span);
        bins_of(scratch.codes, codes, first);
        count(scratch.codes, codes, scratch.bins[0], scratch.bins[1], (const char *)scratch.codes);
        add_bins(row->counts, span, times);
    }
    found.spike = found.zeros;
    found.sum *= scale;
    found.squares *= scale * scale;
    add_figures(row, &found, number, times, 0.0, scale);
}

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

/* Adds elements that are all the same number, but for the specials among them. */
static void add_constant(Row *row, const Elements *all, int64_t times, double pivot, double scale, Found *found) {
    int64_t finite = all->number - found->nan - found->pos_inf - found->neg_inf;
    add_doubles(&found->low, 1, pivot, scale, found);
    add_each(row->counts, scratch.codes, 1, found->spike, finite * times);
    found->spike *= finite;
    found->zeros *= finite;
    found->sum *= (double)finite;
    found->squares *= (double)finite;
}

static int64_t fold_doubles(Row *row, const Elements *all, int64_t times, double pivot, Found found) {
    int specials = found.nan || found.pos_inf || found.neg_inf;
    double scale = row->parameters[SCALE];
    if (found.low <= found.high) {
        scale = scale_of(row, pivot, &found);
        double farthest = fmax(fabs(found.low - pivot), fabs(found.high - pivot)) * scale;
        if (!(farthest < 1e150))
            return -1;
        if (found.low == found.high)
            add_constant(row, all, times, pivot, scale, &found);
        else {
            int few = all->number <= TINY;
            if (!few)
                clear_bins(ALL_BINS);
            for (int64_t first = 0; first < all->number; first += PIECE) {
                int64_t number = piece_at(all, first);
                const double *x = doubles(all, first, number, scratch.piece.wide);
                Found known = NOTHING;
                if (specials)
                    x = look_double(x, &number, scratch.piece.wide, &known);
                add_doubles(x, number, pivot, scale, &found);
                if (few)
                    add_each(row->counts, scratch.codes, number, found.spike, times);
                else
                    count(scratch.codes, number, scratch.bins[0], scratch.bins[1], behind(all, first));
            }
            if (!few)
                add_bins(row->counts, ALL_BINS, times);
        }
    }
    add_figures(row, &found, all->number, times, pivot, scale);
    return 0;
}

/* Changes with this file's functions and with the numbers of layout.py. */
int64_t torchboard_fold_version(void) { return 2000000 + BINS * 100 + SLOTS; }

/* Adds elements, each of them ``times`` times, to one row of three buffers. Gives a number that ``torchboard_fold_again``
 * knows, zero where that cannot be used, and -1 if nothing was done because the elements need more care. */
int64_t torchboard_fold(int64_t *counts, double *moments, double *parameters, int64_t row_number, const void *data,
                        int64_t number, int type, int64_t times, int threads) {
    Row row = {counts + row_number * BINS, moments + row_number * SLOTS, parameters + row_number * PARAMETERS};
    Elements all = {data, number, type};
    if (row.parameters[KIND] != 0 || number >= INT32_MAX || (uintptr_t)data % (uintptr_t)size_of(type))
        return -1;
    Found found = NOTHING;
    double pivot = row.parameters[SCALE] ? row.parameters[PIVOT] : pivot_of(&all, &found);
    if (type == FLOAT64 || pivot != 0)
        return fold_doubles(&row, &all, times, pivot, found.low <= found.high ? found : extremes_of(&all, number));
    int64_t codes = 0;
    if (number > SMALL)
        scratch.kept_serial = 0;
    if (!look_at_in_parallel(&all, &found, threads))
        codes = look_at(&all, &found);
    double scale = found.low <= found.high ? scale_of(&row, 0, &found) : row.parameters[SCALE];
    if (scale && -ilogb(scale) <= LOWEST_UNIT)
        return fold_doubles(&row, &all, times, 0, extremes_of(&all, number));
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
