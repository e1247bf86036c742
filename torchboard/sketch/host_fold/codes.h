/* Counts the codes of elements of up to 32 bits, on several threads where there are many: those of torch's own OpenMP, which
 * would otherwise wait for the processor beside ours. */

#include "row.h"

/* Sums in the making: each lane has eight of them, so that no addition waits for another. */
typedef struct {
    Doubles sums[4], squares[4];
} Sums;

ALWAYS_INLINE static void add_eight(Sums *sums, int lane, const float *x) {
    Floats some;
    memcpy(&some, x, sizeof some);
    Doubles values = __builtin_convertvector(some, Doubles);
    sums->sums[lane] += values;
    sums->squares[lane] += values * values;
}

ALWAYS_INLINE static void add_one(Sums *sums, float x) {
    sums->sums[0][0] += x;
    sums->squares[0][0] += (double)x * x;
}

ALWAYS_INLINE static void give(const Sums *sums, double *sum, double *squares) {
    for (int place = 0; place < 32; place++) {
        *sum += sums->sums[place / 8][place % 8];
        *squares += sums->squares[place / 8][place % 8];
    }
}

FOR_EACH_CPU static void add_up(const float *x, int64_t number, double *sum, double *squares) {
    Sums sums = {0};
    int64_t i = 0;
    for (; i + 32 <= number; i += 32)
        for (int lane = 0; lane < 4; lane++)
            add_eight(&sums, lane, x + i + 8 * lane);
    for (; i < number; i++)
        add_one(&sums, x[i]);
    give(&sums, sum, squares);
}

/* Codes of finite numbers. */
FOR_EACH_CPU static void encode(const float *x, int64_t number, uint16_t *codes, Found *found) {
    uint32_t zeros = 0, least = found->least;
    for (uint32_t i = 0; i < (uint32_t)number; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        uint32_t magnitude = bits << 1, zero = magnitude == 0;
        least = magnitude - 1 < least ? magnitude - 1 : least;
        codes[i] = (uint16_t)(zero ? ZERO_CODES + i % ZERO_PLACES : bits >> (23 - MANTISSA_BITS));
        zeros += zero;
    }
    found->zeros += zeros;
    found->least = least;
}

/* The codes of either sign that there are, but for those of zeros. */
static Span span_of(const Found *found) {
    float greatest = (float)fmax(-found->low, found->high);
    uint32_t bits;
    memcpy(&bits, &greatest, sizeof bits);
    return found->least == UINT32_MAX
               ? (Span){0, -1}
               : (Span){(int)((found->least + 1) >> (24 - MANTISSA_BITS)), (int)(bits >> (23 - MANTISSA_BITS))};
}

/* Counts eight codes, the neighbours apart. */
ALWAYS_INLINE static void count_eight(const uint16_t *codes, uint32_t *even, uint32_t *odd) {
    for (int i = 0; i < 8; i += 2) {
        even[codes[i]]++;
        odd[codes[i + 1]]++;
    }
}

/* Counts codes; meanwhile the memory that is read next comes nearer. */
static void count(const uint16_t *codes, int64_t number, uint32_t *even, uint32_t *odd, const char *next) {
    int64_t i = 0;
    for (; i + 8 <= number; i += 8) {
        __builtin_prefetch(next + 4 * i);
        count_eight(codes + i, even, odd);
    }
    for (; i < number; i++)
        even[codes[i]]++;
}

/* Keeps the compiler from carrying counters in registers, and over the stack, to the end of a loop. */
#define KEEP_IN_MEMORY(COUNTERS) __asm__ volatile("" : "+m"(*(uint32_t(*)[CODES])(COUNTERS)))

/* Counts codes and adds up the numbers they are of: nothing but the counters' way to memory takes time. The table comes as two
 * addresses, since to find a thread's own memory takes a call. */
FOR_EACH_CPU static void count_and_add_up(const float *x, const uint16_t *codes, int64_t number, uint32_t *table[2],
                                          const char *next, Found *found) {
    uint32_t *even = table[0], *odd = table[1];
    Sums sums = {0};
    int64_t i = 0;
    for (; i + 32 <= number; i += 32) {
        for (int lane = 0; lane < 4; lane++) {
            if (lane % 2 == 0)
                __builtin_prefetch(next + 4 * (i + 8 * lane));
            add_eight(&sums, lane, x + i + 8 * lane);
            count_eight(codes + i + 8 * lane, even, odd);
        }
        KEEP_IN_MEMORY(even);
        KEEP_IN_MEMORY(odd);
    }
    for (; i < number; i++) {
        add_one(&sums, x[i]);
        even[codes[i]]++;
    }
    give(&sums, &found->sum, &found->squares);
}

static void clear_table(void) {
    size_t bytes = (size_t)(scratch.used.last - scratch.used.first + 1) * sizeof **scratch.table;
    for (int lane = 0; lane < 2; lane++)
        for (int side = 0; side < CODES; side += SIGN)
            memset(scratch.table[lane] + side + scratch.used.first, 0, bytes);
}

/* Looks at elements of up to 32 bits; their codes go into this thread's table, or, if they are few, stay codes. Gives the
 * number of codes that stay. */
static int64_t look_at(const Elements *all, Found *found) {
    int few = all->number <= FEW;
    int64_t codes = 0;
    float *buffer = scratch.piece.narrow;
    uint32_t *table[2] = {scratch.table[0], scratch.table[1]};
    if (!few)
        clear_table();
    for (int64_t first = 0; first < all->number; first += PIECE) {
        int64_t number = piece_at(all, first);
        const float *x = look_float(floats(all, first, number, buffer), &number, buffer, found);
        encode(x, number, scratch.codes, found);
        if (few) {
            add_up(x, number, &found->sum, &found->squares);
            codes = number;
        } else
            count_and_add_up(x, scratch.codes, number, table, behind(all, first), found);
    }
    if (!few)
        scratch.used = span_of(found);
    return codes;
}

typedef struct {
    Elements elements;
    Found found;
    Scratch *scratch;
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
        part->scratch = &scratch;
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
    found->least = other->least < found->least ? other->least : found->least;
}

static void merge_table(const Scratch *other) {
    for (int lane = 0; lane < 2; lane++)
        for (int side = 0; side < CODES; side += SIGN)
            for (int code = side + other->used.first; code <= side + other->used.last; code++)
                scratch.table[lane][code] += other->table[lane][code];
}

/* A forked process has the memory of those threads, but not the threads. */
static int forked;

static void note_fork(void) { forked = 1; }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, note_fork); }

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

/* What OpenMP of torch's kind runs a function with; NULL where there is none. A look-up by name takes as long as a small fold. */
static Parallel parallel(void) {
    static Parallel found;
    if (!found)
        found = (Parallel)dlsym(RTLD_DEFAULT, "GOMP_parallel");
    return found;
}

static int look_at_in_parallel(const Elements *all, Found *found, int threads) {
    if (all->number < WORTH_THREADS || threads < 2 || forked)
        return 0;
    int64_t most = all->number / WORTH_A_THREAD;
    threads = threads < most ? threads : (int)most;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    Parallel run = parallel();
    if (!run)
        return 0;
    Parts parts = {.number = threads, .next = 0};
    int64_t each = (all->number + threads - 1) / threads;
    for (int place = 0; place < threads; place++) {
        int64_t first = place * each, left = all->number - first;
        parts.parts[place].elements =
            (Elements){all->data + first * size_of(all->type), left < each ? left : each, all->type};
    }
    run(work, &parts, (unsigned)threads, 0);
    if (parts.next < parts.number) /* fewer threads came than were asked for */
        return 0;
    for (int place = 0; place < threads; place++) {
        Part *part = &parts.parts[place];
        merge(found, &part->found);
        if (part->scratch != &scratch)
            merge_table(part->scratch);
    }
    scratch.used = span_of(found);
    return 1;
}
