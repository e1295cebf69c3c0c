/* Inner products of int8 and fp16 codes with queries; a template, included once per instruction set.
 *
 * A few rows at a time are turned into float32 values (scale folded in) in first-level cache, and multiplied with
 * groups of queries by a register tile of ROWS x COLS vector accumulators, lanes along the coordinates.
 *
 * Needs: TARGET, LANES, COLS, VF (vector of LANES floats), ZERO, LOADF, STOREF, SET1, MUL, FMA, FROM_INT8(p),
 * FROM_HALF(p), ADD_ROW_SUMS(double *sums, VF r0, VF r1, VF r2, VF r3), and stdlib/string included.
 */
#define ROWS 4
#define DOTS_STEP 1024 /* coordinates of ROWS float rows that share first-level cache with COLS queries */
#define DOTS_BUDGET 131072
#define DOTS_QUERIES 96 /* a multiple of every COLS */

TARGET static void values_of(const Job *job, const uint8_t *code, const uint8_t *scale, ptrdiff_t start, ptrdiff_t size,
                             float *values)
{
    const int wide = job->bits == 16;
    for (ptrdiff_t done = 0; done < size;) {
        ptrdiff_t at = start + done, in_block = at % job->block;
        ptrdiff_t run = smaller(size - done, job->block - in_block);
        float factor;
        memcpy(&factor, scale + at / job->block * (ptrdiff_t)sizeof factor, sizeof factor);
        const VF by = SET1(factor);
        if (wide)
            for (ptrdiff_t k = 0; k < run; k += LANES)
                STOREF(values + done + k, MUL(by, FROM_HALF(code + 2 * (at + k))));
        else
            for (ptrdiff_t k = 0; k < run; k += LANES)
                STOREF(values + done + k, MUL(by, FROM_INT8(code + at + k)));
        done += run;
    }
}

TARGET static inline __attribute__((always_inline)) void register_tile(const float *values, const float *queries,
                                                                       ptrdiff_t tile, ptrdiff_t size, double *sums,
                                                                       ptrdiff_t padded, const int cols)
{
    VF total[ROWS][COLS];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < cols; c++) total[r][c] = ZERO;
    for (ptrdiff_t k = 0; k < size; k += LANES) {
        VF value[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) value[r] = LOADF(values + r * DOTS_STEP + k);
        UNROLL for (int c = 0; c < cols; c++)
        {
            const VF query = LOADF(queries + c * tile + k);
            UNROLL for (int r = 0; r < ROWS; r++) total[r][c] = FMA(value[r], query, total[r][c]);
        }
    }
    for (int c = 0; c < cols; c++)
        ADD_ROW_SUMS(sums + c * padded, total[0][c], total[1][c], total[2][c], total[3][c]);
}

TARGET static void many_queries(const float *values, const float *queries, ptrdiff_t tile, ptrdiff_t size, double *sums,
                                ptrdiff_t padded, ptrdiff_t count)
{
    for (; count >= COLS; count -= COLS, queries += COLS * tile, sums += COLS * padded)
        register_tile(values, queries, tile, size, sums, padded, COLS);
    switch (count) {
#if COLS > 4
    case 5: register_tile(values, queries, tile, size, sums, padded, 5); break;
    case 4: register_tile(values, queries, tile, size, sums, padded, 4); break;
#endif
#if COLS > 2
    case 3: register_tile(values, queries, tile, size, sums, padded, 3); break;
    case 2: register_tile(values, queries, tile, size, sums, padded, 2); break;
#endif
    case 1: register_tile(values, queries, tile, size, sums, padded, 1); break;
    default: break;
    }
}

/* All rows of the job against the packed queries [count][tile] of coordinates start .. start + size. */
TARGET static void dot_rows(const Job *job, ptrdiff_t start, ptrdiff_t size, const float *packed, ptrdiff_t tile,
                            ptrdiff_t first, ptrdiff_t count, float *values)
{
    for (ptrdiff_t row = 0; row < job->rows; row += ROWS)
        for (ptrdiff_t k = 0; k < size; k += DOTS_STEP) {
            const ptrdiff_t step = smaller(DOTS_STEP, size - k);
            for (int r = 0; r < ROWS; r++) {
                const ptrdiff_t real = smaller(row + r, job->rows - 1); /* past the end: repeated, then ignored */
                values_of(job, job->codes + real * job->code_stride, job->scales + real * job->scale_stride, start + k,
                          step, values + r * DOTS_STEP);
            }
            many_queries(values, packed + k, tile, step, job->sums + first * job->padded + row, job->padded, count);
        }
}

static int score_dots(const Job *job)
{
    const ptrdiff_t most = smaller(job->count, DOTS_QUERIES), tile = tile_of(DOTS_BUDGET, most, DOTS_STEP);
    void *owner;
    float *values = aligned_scratch(((size_t)(most * tile) + ROWS * DOTS_STEP) * sizeof(float), &owner);
    if (!values) return -1;
    float *packed = values + ROWS * DOTS_STEP;
    for (ptrdiff_t start = 0; start < job->coords; start += tile) {
        const ptrdiff_t size = smaller(tile, job->coords - start);
        for (ptrdiff_t first = 0; first < job->count; first += most) {
            const ptrdiff_t count = smaller(most, job->count - first);
            for (ptrdiff_t q = 0; q < count; q++)
                memcpy(packed + q * tile, query_row(job, first + q) + start, (size_t)size * sizeof(float));
            dot_rows(job, start, size, packed, tile, first, count, values);
        }
    }
    free(owner);
    return 0;
}
