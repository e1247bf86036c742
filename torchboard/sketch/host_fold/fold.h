/* Folds the elements of a float tensor into one row of a sketch: what host.py does with torch's operations, in one
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
    if (number <= FEW) {
        bins_of(scratch.codes, codes, first_code(scale));
        add_each(row->counts, scratch.codes, codes, found.zeros, times);
    } else
        add_table(row->counts, first_code(scale), times);
    found.spike = found.zeros;
    found.sum *= scale;
    found.squares *= scale * scale;
    add_figures(row, &found, number, times, 0.0, scale);
}

FOR_EACH_CPU static void add_doubles(const double *x, int64_t number, uint16_t *codes, double pivot, double scale,
                                     Found *found) {
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
        codes[i] = (uint16_t)(equal ? ZERO_BINS + i % ZERO_PLACES : bin);
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
    add_doubles(&found->low, 1, scratch.codes, pivot, scale, found);
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
            return NOT_DONE;
        if (found.low == found.high)
            add_constant(row, all, times, pivot, scale, &found);
        else {
            int few = all->number <= FEW;
            if (!few)
                clear_bins();
            for (int64_t first = 0; first < all->number; first += PIECE) {
                int64_t number = piece_at(all, first);
                const double *x = doubles(all, first, number, scratch.piece.wide);
                Found known = NOTHING;
                if (specials)
                    x = look_double(x, &number, scratch.piece.wide, &known);
                add_doubles(x, number, scratch.codes, pivot, scale, &found);
                if (few)
                    add_each(row->counts, scratch.codes, number, found.spike, times);
                else
                    count(scratch.codes, number, scratch.bins[0], scratch.bins[1], behind(all, first));
            }
            if (!few)
                add_bins(row->counts, times);
        }
    }
    add_figures(row, &found, all->number, times, pivot, scale);
    return 0;
}

/* Adds elements, each of them ``times`` times, to a row. Gives a number that ``again`` knows, zero where that cannot be used,
 * and NOT_DONE where nothing was done because the elements need more care. */
static int64_t fold(Row row, Elements all, int64_t times, int threads) {
    if (row.parameters[KIND] != 0 || all.number >= INT32_MAX)
        return NOT_DONE;
    Found found = NOTHING;
    double pivot = row.parameters[SCALE] ? row.parameters[PIVOT] : pivot_of(&all, &found);
    if (all.type == FLOAT64 || pivot != 0)
        return fold_doubles(&row, &all, times, pivot, found.low <= found.high ? found : extremes_of(&all, all.number));
    int64_t codes = 0;
    if (all.number > FEW)
        scratch.kept_serial = 0;
    if (!look_at_in_parallel(&all, &found, threads))
        codes = look_at(&all, &found);
    double scale = found.low <= found.high ? scale_of(&row, 0, &found) : row.parameters[SCALE];
    if (scale && -ilogb(scale) <= LOWEST_UNIT)
        return fold_doubles(&row, &all, times, 0, extremes_of(&all, all.number));
    take(&row, found, all.number, codes, times, scale);
    if (all.number <= SMALL)
        return 0;
    scratch.kept = found;
    scratch.kept_number = all.number;
    scratch.kept_times = times;
    return scratch.kept_serial = __atomic_add_fetch(&last_serial, 1, __ATOMIC_RELAXED);
}

/* Adds what a fold added to another row; 0, and nothing done, if this thread has it no longer or the row looks at numbers in
 * another way. */
static int again(Row row, int64_t serial) {
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

/* The sum of the squares of all elements. */
static double squares_of(const Elements *all) {
    double sum = 0, squares = 0;
    for (int64_t first = 0; first < all->number; first += PIECE) {
        int64_t number = piece_at(all, first);
        if (all->type == FLOAT64) {
            const double *x = doubles(all, first, number, scratch.piece.wide);
            for (int64_t i = 0; i < number; i++)
                squares += x[i] * x[i];
        } else
            add_up(floats(all, first, number, scratch.piece.narrow), number, &sum, &squares);
    }
    return squares;
}
