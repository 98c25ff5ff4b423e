/* The inner loops of sketches and masks on a CPU, several times as fast as torch and numpy run them.
 *
 * `tensor_ops_threads_and_cpu_kernel.py` loads this library with ctypes. It is optional: without it the same tables come from `sketch.py` and
 * `quantization_group_histograms.py`, to the bit, so every order of additions here is one written there.
 * Weights are matrices in row-major order. No function keeps anything between calls, and all may run in many threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(PORTABLE) || !defined(__x86_64__)
#define EXPORT __attribute__((visibility("default")))
#else /* compiled three times; the loader takes the best for this processor */
#define EXPORT                                   \
    __attribute__((visibility("default"))) \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
/* Inlined into the functions above, and so compiled for each processor as they are. */
#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32, FLOAT16, BFLOAT16, FLOAT64 };
enum {
    BUCKETS = 1 << 16, /* of values: the upper half of a float32 */
    SIGN = 0x8000,
    UNIT = 32,    /* the smallest group */
    CHUNK = 4096, /* weights taken together: what is computed of them stays in the first cache */
    MAGNITUDES = 1 << 15, /* buckets without the sign */
    BINS = 162,           /* of relative magnitudes, 16 to an octave */
    RATIOS = 8,           /* intervals of the ratio between the ends of a group */
    SHIFT = 19,
    FIRST = 0x3A800000 >> SHIFT, /* the pattern of 2^-10 */
};

/* Changes with every signature and every table below: a library built of other sources is not used. */
EXPORT int64_t cpu_kernel_version(void) { return 1; }

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float of_half(uint16_t half) {
    uint32_t magnitude = half & 0x7FFF, sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t normal = (magnitude << 13) + (112u << 23); /* the exponent's bias is 112 more */
    uint32_t denormal = bits_of((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t infinite = normal + (112u << 23);
    uint32_t bits = magnitude < 0x0400 ? denormal : magnitude < 0x7C00 ? normal : infinite;
    return float_of(bits | sign);
}

/* Write `n` weights from `start` on as float32. */
INLINE void as_floats(const void *weights, int dtype, int64_t start, int64_t n, float *out) {
    const float *singles = (const float *)weights + start;
    const double *doubles = (const double *)weights + start;
    const uint16_t *halves = (const uint16_t *)weights + start;
    if (dtype == FLOAT32)
        for (int64_t i = 0; i < n; i++) out[i] = singles[i];
    else if (dtype == FLOAT64)
        for (int64_t i = 0; i < n; i++) out[i] = (float)doubles[i];
    else if (dtype == BFLOAT16)
        for (int64_t i = 0; i < n; i++) out[i] = float_of((uint32_t)halves[i] << 16);
    else
        for (int64_t i = 0; i < n; i++) out[i] = of_half(halves[i]);
}

/* Count the upper halves of float32 patterns, in two tables in turn: most weights fall into few buckets, and an
 * increment would wait for the one before it in the same bucket. */
INLINE void count_buckets(const float *values, int64_t n, uint32_t *even, uint32_t *odd) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        uint64_t two, more;
        memcpy(&two, values + i, sizeof two);
        memcpy(&more, values + i + 2, sizeof more);
        even[(two >> 16) & 0xFFFF]++;
        odd[two >> 48]++;
        even[(more >> 16) & 0xFFFF]++;
        odd[more >> 48]++;
    }
    for (; i < n; i++) even[bits_of(values[i]) >> 16]++;
}

INLINE float smaller(float a, float b) { return a < b ? a : b; }
INLINE float larger(float a, float b) { return a > b ? a : b; }

INLINE void halve(float *least, float *most, float *sum, int half) {
    for (int j = 0; j < half; j++) {
        least[j] = smaller(least[j], least[j + half]);
        most[j] = larger(most[j], most[j + half]);
        sum[j] += sum[j + half];
    }
}

/* Write the minimum, the maximum (both with zero) and the sum of magnitudes of 32 weights, added by halves. */
INLINE void unit_statistics(const float *x, float *low, float *high, float *total) {
    float least[8], most[8], sum[8];
    for (int j = 0; j < 8; j++) {
        float a = x[j], b = x[j + 8], c = x[j + 16], d = x[j + 24];
        least[j] = smaller(smaller(a, c), smaller(b, d));
        most[j] = larger(larger(a, c), larger(b, d));
        sum[j] = (fabsf(a) + fabsf(c)) + (fabsf(b) + fabsf(d));
    }
    halve(least, most, sum, 4); /* unlike a loop, kept in registers */
    halve(least, most, sum, 2);
    halve(least, most, sum, 1);
    *low = smaller(least[0], 0);
    *high = larger(most[0], 0);
    *total = sum[0];
}

/* Write the statistics of the groups of 32 along a piece of a row, the last filled up with zeros; return how many. */
INLINE int64_t row_statistics(const float *values, int64_t n, float *low, float *high, float *total) {
    int64_t whole = n / UNIT;
    for (int64_t i = 0; i < whole; i++) unit_statistics(values + i * UNIT, low + i, high + i, total + i);
    if (n == whole * UNIT) return whole;
    float rest[UNIT] = {0};
    memcpy(rest, values + whole * UNIT, (n - whole * UNIT) * sizeof *rest);
    unit_statistics(rest, low + whole, high + whole, total + whole);
    return whole + 1;
}

/* Look at every weight of a matrix once.
 *
 * `buckets`, `counts`: the buckets that are not empty in ascending order of value, and their counts, room for 65,536.
 * `low`, `high`, `total`: the statistics of the groups of 32, rows by ceil(length / 32). Returns the number of buckets, or
 * -1 where there is no memory. Fewer than 2^32 weights.
 */
EXPORT int64_t sketch_scan(const void *weights, int64_t dtype, int64_t rows, int64_t length, uint16_t *buckets,
                           int64_t *counts, float *low, float *high, float *total) {
    uint32_t *even = calloc(2 * BUCKETS, sizeof *even), *odd = even + BUCKETS;
    if (!even) return -1;
    float widened[CHUNK];
    int64_t together = length < CHUNK ? CHUNK / length : 1; /* short rows are taken together */
    for (int64_t row = 0; row < rows; row += together) {
        if (together > rows - row) together = rows - row;
        for (int64_t start = 0; start < length; start += CHUNK) {
            int64_t n = length - start < CHUNK ? length - start : CHUNK;
            const float *values = widened;
            if (dtype == FLOAT32)
                values = (const float *)weights + row * length + start;
            else
                as_floats(weights, dtype, row * length + start, together * n, widened);
            count_buckets(values, together * n, even, odd);
            for (int64_t i = 0; i < together; i++) {
                int64_t groups = row_statistics(values + i * n, n, low, high, total);
                low += groups, high += groups, total += groups;
            }
        }
    }
    int64_t found = 0;
    for (int64_t i = 0; i < BUCKETS; i++) {
        /* negative ones first, from the largest magnitude down */
        int64_t bucket = i < SIGN ? BUCKETS - 1 - i : i - SIGN, count = (int64_t)even[bucket] + odd[bucket];
        if (!count) continue;
        buckets[found] = (uint16_t)bucket;
        counts[found++] = count;
    }
    free(even);
    return found;
}

/* Count the zeros, `zeros[0]`, and those that are -0.0, `zeros[1]`, and of every block of `m` neighbours along a row
 * the weights that are not zero, at most `n` of each: `kept`, for 2:4, 1:4 and 4:8. */
EXPORT void sketch_zeros(const void *weights, int64_t dtype, int64_t rows, int64_t length, int64_t *zeros,
                         int64_t *kept) {
    int64_t zero = 0, negative = 0, of_two = 0, of_one = 0, of_four = 0;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t start = 0; start < length; start += CHUNK) {
            int64_t n = length - start < CHUNK ? length - start : CHUNK, first = row * length + start;
            uint8_t filled[CHUNK + 8];
            memset(filled + n, 0, 8); /* what a last, shorter block lacks */
            int32_t some = 0, some_negative = 0;
            if (dtype == FLOAT32)
                for (int64_t i = 0; i < n; i++) {
                    uint32_t bits = ((const uint32_t *)weights)[first + i];
                    filled[i] = (bits << 1) != 0;
                    some_negative += bits == 0x80000000u;
                }
            else if (dtype == FLOAT64)
                for (int64_t i = 0; i < n; i++) {
                    uint64_t bits = ((const uint64_t *)weights)[first + i];
                    filled[i] = (bits << 1) != 0;
                    some_negative += bits == 1ull << 63;
                }
            else
                for (int64_t i = 0; i < n; i++) {
                    uint16_t bits = ((const uint16_t *)weights)[first + i];
                    filled[i] = (bits & 0x7FFF) != 0;
                    some_negative += bits == 0x8000;
                }
            for (int64_t i = 0; i < n; i++) some += filled[i];
            zero += n - some;
            negative += some_negative;
            for (int64_t i = 0; i < n; i += 8) {
                int left = filled[i] + filled[i + 1] + filled[i + 2] + filled[i + 3];
                int right = filled[i + 4] + filled[i + 5] + filled[i + 6] + filled[i + 7];
                of_two += (left < 2 ? left : 2) + (right < 2 ? right : 2);
                of_one += (left > 0) + (right > 0);
                of_four += left + right < 4 ? left + right : 4;
            }
        }
    }
    zeros[0] = zero, zeros[1] = negative;
    kept[0] = of_two, kept[1] = of_one, kept[2] = of_four;
}

/* The bin of a relative magnitude between 0 and 1. */
INLINE int32_t bin_of(float u) {
    int32_t bin = (int32_t)(bits_of(u) >> SHIFT) - (FIRST - 1);
    return bin < 0 ? 0 : bin > BINS - 1 ? BINS - 1 : bin;
}

/* The groups of one granularity: the ranges of `each` groups to a row, made of `factor` groups of 32. */
typedef struct {
    const float *ranges;
    int64_t each, factor;
} Ranges;

/* Count weights by their magnitude relative to the range of their group, and add up their squares, for each of
 * `granularities`: `count` and `energy` have 162 bins of each. Of the groups of 32, every `step`-th is looked at. */
EXPORT void sketch_bins(const void *weights, int64_t dtype, int64_t rows, int64_t length, int64_t step,
                        const Ranges *granularities, int64_t many, int64_t *count, double *energy) {
    int64_t units = (length + UNIT - 1) / UNIT;
    memset(count, 0, many * BINS * sizeof *count);
    memset(energy, 0, many * BINS * sizeof *energy);
    for (int64_t at = 0, row = 0, before = 0; row < rows; row++, before += units)
        for (; at < before + units; at += step) {
            int64_t unit = at - before, n = length - unit * UNIT < UNIT ? length - unit * UNIT : UNIT;
            float values[UNIT];
            int32_t bins[UNIT];
            as_floats(weights, dtype, row * length + unit * UNIT, n, values);
            for (int64_t i = 0; i < n; i++) values[i] = fabsf(values[i]);
            for (int64_t g = 0; g < many; g++) {
                float range = granularities[g].ranges[row * granularities[g].each + unit / granularities[g].factor];
                int64_t *counts = count + g * BINS;
                double *energies = energy + g * BINS;
                float divisor = range > 0 ? range : 1;
                for (int64_t i = 0; i < n; i++) bins[i] = bin_of(values[i] / divisor);
                for (int64_t i = 0; i < n; i++) {
                    counts[bins[i]]++;
                    energies[bins[i]] += (double)values[i] * values[i];
                }
            }
        }
}

/* Every `step`-th of the runs of `size` weights, `per_row` of which lie side by side in each row of `length` weights
 * from column `column` on. */
typedef struct {
    int64_t length, column, per_row, size, step;
} Sample;

INLINE void survivors_of_size(const void *weights, int dtype, int64_t rows, const Sample *runs, int size, float absmax,
                              int keep, int keep_more, int64_t *count, int64_t *kept, int64_t *kept_more) {
    for (int64_t row = 0, run = 0, runs_before = 0; row < rows; row++, runs_before += runs->per_row)
        for (; run < runs_before + runs->per_row; run += runs->step) {
            float values[8] = {0};
            int beaten[8] = {0}; /* by how many others of the run */
            int64_t place = run - runs_before;
            as_floats(weights, dtype, row * runs->length + runs->column + place * size, size, values);
            for (int j = 0; j < size; j++) {
                values[j] = fabsf(values[j]);
                for (int i = 0; i < j; i++) {
                    int lost = values[i] <= values[j];
                    beaten[i] += lost;
                    beaten[j] += !lost;
                }
            }
            for (int j = 0; j < size; j++) {
                int32_t bin = bin_of(values[j] / absmax);
                count[bin]++;
                kept[bin] += beaten[j] < keep;
                kept_more[bin] += beaten[j] < keep_more;
            }
        }
}

/* Count a sample's weights by their magnitude relative to `absmax`, and those among them that are one of the `keep`
 * largest of their run, or of the `keep_more` largest; of equal ones the later counts as larger. Each of the three
 * counts has 162 bins, and runs have 8 weights at most. */
EXPORT void sketch_survivors(const void *weights, int64_t dtype, int64_t rows, const Sample *runs, float absmax,
                             int64_t keep, int64_t keep_more, int64_t *counts) {
    int64_t *kept = counts + BINS, *kept_more = kept + BINS;
    memset(counts, 0, 3 * BINS * sizeof *counts);
    if (runs->size == 4) /* with a length that is known, nothing is a loop */
        survivors_of_size(weights, dtype, rows, runs, 4, absmax, keep, keep_more, counts, kept, kept_more);
    else if (runs->size == 8)
        survivors_of_size(weights, dtype, rows, runs, 8, absmax, keep, keep_more, counts, kept, kept_more);
    else
        survivors_of_size(weights, dtype, rows, runs, (int)runs->size, absmax, keep, keep_more, counts, kept, kept_more);
}

/* Write the magnitudes of one bucket in order, as float64, but those that are 0; return how many there are. No more than
 * `room` are written. */
EXPORT int64_t mask_members(const void *weights, int64_t dtype, int64_t n, int64_t bucket, double *out, int64_t room) {
    float values[CHUNK];
    int64_t found = 0;
    for (int64_t start = 0; start < n; start += CHUNK) {
        int64_t many = n - start < CHUNK ? n - start : CHUNK;
        as_floats(weights, dtype, start, many, values);
        for (int64_t first = 0; first < many; first += 32) { /* most have none */
            int64_t end = first + 32 < many ? first + 32 : many, some = 0;
            for (int64_t i = first; i < end; i++) some |= (bits_of(values[i]) >> 16 & 0x7FFF) == (uint32_t)bucket;
            if (!some) continue;
            for (int64_t i = first; i < end; i++) {
                if ((bits_of(values[i]) >> 16 & 0x7FFF) != (uint32_t)bucket) continue;
                double value = dtype == FLOAT64 ? ((const double *)weights)[start + i] : values[i];
                if (value == 0) continue;
                if (found < room) out[found] = fabs(value);
                found++;
            }
        }
    }
    return found;
}

/* Write which magnitudes are above a limit, itself a number of their dtype (of float32 for the narrower ones). */
EXPORT void mask_above(const void *weights, int64_t dtype, int64_t n, double limit, uint8_t *out) {
    float values[CHUNK], single = (float)limit;
    if (dtype == FLOAT64) {
        for (int64_t i = 0; i < n; i++) out[i] = fabs(((const double *)weights)[i]) > limit;
        return;
    }
    for (int64_t start = 0; start < n; start += CHUNK) {
        int64_t many = n - start < CHUNK ? n - start : CHUNK;
        as_floats(weights, dtype, start, many, values);
        for (int64_t i = 0; i < many; i++) out[start + i] = fabsf(values[i]) > single;
    }
}

/* What one table says of its groups. */
typedef struct {
    double lower[RATIOS + 1], upper[RATIOS + 1]; /* squares of ranges by ratio of the ends: parts of the two nodes */
    double captured;                             /* sum of n (mean magnitude)^2 */
    int64_t buckets;                             /* of magnitude into which ranges fall */
} GroupSums;

/* Write the ends of the groups of a row, and their sums of magnitudes over the roots of their lengths.
 *
 * Groups of 32 are merged by halves: the second is added to the first until one is left. `part` has room for 3 factors.
 */
INLINE void merge_row(const float *low, const float *high, const float *total, int64_t units, int64_t length,
                      int64_t factor, float *part, float *least, float *most, float *root) {
    float *lows = part, *highs = part + factor, *totals = part + 2 * factor;
    int64_t whole = length / (factor * UNIT) * factor; /* units of whole groups */
    float divisor = sqrtf((float)(factor * UNIT));
    for (int64_t unit = 0, group = 0; unit < units; unit += factor, group++) {
        if (unit == whole) divisor = sqrtf((float)(length - whole * UNIT));
        for (int64_t i = 0; i < factor; i++) {
            int64_t there = unit + i < units;
            lows[i] = there ? low[unit + i] : 0;
            highs[i] = there ? high[unit + i] : 0;
            totals[i] = there ? total[unit + i] : 0;
        }
        for (int64_t n = factor, half; n > 1; n = half) {
            half = (n + 1) / 2;
            for (int64_t i = 0; i < n - half; i++) {
                lows[i] = smaller(lows[half + i], lows[i]);
                highs[i] = larger(highs[half + i], highs[i]);
                totals[i] += totals[half + i];
            }
        }
        least[group] = lows[0], most[group] = highs[0], root[group] = totals[0] / divisor;
    }
}

/* Write the range of every group made of `factor` groups of 32, and add up what their table says of them.
 *
 * `low`, `high`, `total` are those of the `units` groups of 32 in each row of `length` weights. Every `step`-th group
 * counts among the ratios. `counts`, `squares`: for every bucket of magnitude into which ranges fall, in ascending
 * order, how many do, and their sum of squares; room for as many as there are groups, or 32,768. Returns -1 where there
 * is no memory.
 */
EXPORT int64_t sketch_groups(const float *low, const float *high, const float *total, int64_t rows, int64_t units,
                             int64_t length, int64_t factor, int64_t step, float *ranges, int64_t *counts,
                             double *squares, GroupSums *sums) {
    int64_t each = (units + factor - 1) / factor, group = 0, sampled = 0;
    float *part = malloc(3 * (factor + each) * sizeof *part);
    double *by_bucket = calloc(MAGNITUDES, sizeof *by_bucket);
    int32_t *number = calloc(MAGNITUDES, sizeof *number);
    if (!part || !by_bucket || !number) {
        free(part), free(by_bucket), free(number);
        return -1;
    }
    float *least = part + 3 * factor, *most = least + each, *root = most + each;
    memset(sums, 0, sizeof *sums);
    int32_t first = MAGNITUDES - 1, last = 0;
    for (int64_t row = 0; row < rows; row++, low += units, high += units, total += units) {
        if (factor == 1)
            merge_row(low, high, total, units, length, 1, part, least, most, root);
        else if (factor == 2)
            merge_row(low, high, total, units, length, 2, part, least, most, root);
        else if (factor == 4)
            merge_row(low, high, total, units, length, 4, part, least, most, root);
        else
            merge_row(low, high, total, units, length, factor, part, least, most, root);
        for (int64_t i = 0; i < each; i++, group++) {
            float range = larger(-least[i], most[i]);
            ranges[group] = range;
            int32_t bucket = (int32_t)(bits_of(range) >> 16);
            first = bucket < first ? bucket : first;
            last = bucket > last ? bucket : last;
            number[bucket]++;
            by_bucket[bucket] += (double)range * range;
            sums->captured += (double)root[i] * root[i];
            if (group == sampled) {
                sampled += step;
                double far = range, near = smaller(-least[i], most[i]), square = far * far;
                double at = near / (far > 0 ? far : 1) * RATIOS;
                int64_t node = (int64_t)at < RATIOS - 1 ? (int64_t)at : RATIOS - 1;
                sums->lower[node] += (1 - (at - node)) * square;
                sums->upper[node + 1] += (at - node) * square;
            }
        }
    }
    for (int32_t bucket = first; bucket <= last; bucket++)
        if (number[bucket]) {
            counts[sums->buckets] = number[bucket];
            squares[sums->buckets++] = by_bucket[bucket];
        }
    free(part), free(by_bucket), free(number);
    return 0;
}
