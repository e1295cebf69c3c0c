/* The kernels for any processor: vectors of four lanes, tables of four coordinates looked up one by one. */
#include "_native.h"

#include <stdlib.h>
#include <string.h>

#define TARGET
#define LANES 4
#define COLS 2

typedef float VF __attribute__((vector_size(4 * LANES))); /* GCC's and Clang's own vectors, on any processor */
typedef int8_t Bytes __attribute__((vector_size(LANES)));

#define ZERO ((VF){0.0f, 0.0f, 0.0f, 0.0f})
#define SET1(x) ((VF){x, x, x, x})
#define LOADF(p) load(p)
#define STOREF(p, v) store(p, v)
#define MUL(a, b) ((a) * (b))
#define FMA(a, b, c) ((a) * (b) + (c))
#define FROM_INT8(p) from_int8(p)
#define FROM_HALF(p) from_half(p)
#define ADD_ROW_SUMS(sums, a, b, c, d) add_row_sums(sums, a, b, c, d)

static inline VF load(const float *p)
{
    VF v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, VF v) { memcpy(p, &v, sizeof v); }

static inline VF from_int8(const uint8_t *p)
{
    Bytes bytes;
    memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, VF);
}

/* Shift the fields into place; a multiplication by 2^112 moves the exponent's bias and makes subnormals normal. */
static inline float half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = (uint32_t)(half & 0x7fffu) << 13;
    const float shift = 0x1p112f;
    float value;
    uint32_t word;
    memcpy(&value, &rest, sizeof value);
    value *= shift;
    memcpy(&word, &value, sizeof word);
    if ((half & 0x7c00u) == 0x7c00u) word = rest | 0x7f800000u; /* infinity, not a number */
    word |= sign;
    memcpy(&value, &word, sizeof value);
    return value;
}

static inline VF from_half(const uint8_t *p)
{
    VF v;
    for (int l = 0; l < LANES; l++) {
        uint16_t half;
        memcpy(&half, p + 2 * l, sizeof half);
        v[l] = half_to_float(half);
    }
    return v;
}

static inline float lanes_sum(VF v) { return (v[0] + v[2]) + (v[1] + v[3]); }

static inline void add_row_sums(double *sums, VF a, VF b, VF c, VF d)
{
    sums[0] += lanes_sum(a);
    sums[1] += lanes_sum(b);
    sums[2] += lanes_sum(c);
    sums[3] += lanes_sum(d);
}

#include "_native_dots.h"

#define NIBBLE 16         /* signed sums of four coordinates */
#define TABLES_BUDGET 4096 /* coordinates x queries: 64 KiB of tables */
#define TABLES_QUERIES 8

static void build_nibbles(const float *query, ptrdiff_t size, float *tables)
{
    for (ptrdiff_t k = 0; k < size; k += 4, tables += NIBBLE)
        for (int i = 0; i < NIBBLE; i++) {
            float sum = 0.0f;
            for (int b = 0; b < 4; b++) sum += (i >> b & 1) ? query[k + b] : -query[k + b];
            tables[i] = sum;
        }
}

static float look_up_row(const uint8_t *code, ptrdiff_t bytes, const float *tables)
{
    float low[4] = {0}, high[4] = {0};
    for (ptrdiff_t b = 0; b < bytes; b += 4) /* a block is whole 64-coordinate groups */
        for (int i = 0; i < 4; i++, tables += 2 * NIBBLE) {
            low[i] += tables[code[b + i] & 15];
            high[i] += tables[NIBBLE + (code[b + i] >> 4)];
        }
    return ((low[0] + high[0]) + (low[1] + high[1])) + ((low[2] + high[2]) + (low[3] + high[3]));
}

static double nibble_row(const Job *job, ptrdiff_t row, ptrdiff_t start, ptrdiff_t size, const float *tables)
{
    const uint8_t *code = job->codes + row * job->code_stride, *scale = job->scales + row * job->scale_stride;
    const ptrdiff_t segment = smaller(job->block, 512);
    double sum = 0.0;
    for (ptrdiff_t at = 0; at < size; at += segment) {
        float factor;
        memcpy(&factor, scale + (start + at) / job->block * 4, sizeof factor);
        sum += factor * look_up_row(code + (start + at) / 8, smaller(segment, size - at) / 8, tables + at / 4 * NIBBLE);
    }
    return sum;
}

static int score_nibbles(const Job *job)
{
    const ptrdiff_t most = smaller(job->count, TABLES_QUERIES), tile = tile_of(TABLES_BUDGET, most, 512);
    const ptrdiff_t stride = tile / 4 * NIBBLE;
    void *owner;
    float *tables = aligned_scratch((size_t)(most * stride) * sizeof(float), &owner);
    if (!tables) return -1;
    for (ptrdiff_t start = 0; start < job->coords; start += tile) {
        const ptrdiff_t size = smaller(tile, job->coords - start);
        for (ptrdiff_t first = 0; first < job->count; first += most) {
            const ptrdiff_t count = smaller(most, job->count - first);
            for (ptrdiff_t q = 0; q < count; q++)
                build_nibbles(query_row(job, first + q) + start, size, tables + q * stride);
            for (ptrdiff_t row = 0; row < job->rows; row++)
                for (ptrdiff_t q = 0; q < count; q++)
                    job->sums[(first + q) * job->padded + row] +=
                        nibble_row(job, row, start, size, tables + q * stride);
        }
    }
    free(owner);
    return 0;
}

int score_portable(const Job *job) { return job->bits == 1 ? score_nibbles(job) : score_dots(job); }
