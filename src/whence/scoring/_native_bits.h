/* Inner products of one-bit codes with queries by table look-up; a template, included once per instruction set.
 *
 * BITS coordinates of a query have only 2^BITS = LANES signed sums, and a vector register holds them all. With one row
 * per lane, a permutation of that register by the rows' code bits is BITS multiply-adds of LANES rows in one
 * instruction, in full float32 precision. Code words are transposed once (row per lane) and used by all queries; a
 * table is loaded once and used by GROUPS vectors of rows.
 *
 * Many rows are read side by side, a cache line of each in turn. Where rows lie a large power of two apart these lines
 * fall into the same few cache sets and push each other out: a third slower than rows an odd number of lines apart.
 * Copying rows into a dense buffer first was tried and is slower still (it defeats the hardware's prefetcher).
 *
 * Needs: TARGET, LANES, BITS, VF, VI, ZERO, LOADF, LOADI, STOREF, SET1, ADD, FMA, LOOK_UP(table, bits),
 * NEXT_BITS(bits), transpose(rows, offset, out): LANES words of 32 bits of LANES rows.
 */
#define LOOK_UPS ((32 + BITS - 1) / BITS) /* per 32-bit word of a row's code */
#define TABLE (LOOK_UPS * LANES)          /* floats per word and query */
#define GROUPS 2 /* vectors of rows that share a table load; four are slower, their lines crowd the caches */
#define TILE_ROWS (GROUPS * LANES)
#define LINE 64          /* bytes of a cache line: 512 coordinates */
#define WORDS 16         /* of a line */
#define BITS_BUDGET 32768 /* coordinates x queries whose tables stay in second-level cache */
#define BITS_QUERIES 16
#define AHEAD 6 /* lines of each row fetched before they are used */

typedef struct {
    const uint8_t *codes[TILE_ROWS], *scales[TILE_ROWS];
    uint32_t words[GROUPS * WORDS * LANES];      /* [group][word][row] */
    float factors[GROUPS * LANES * LANES];       /* [group][block][row] */
    float totals[BITS_QUERIES * GROUPS * LANES]; /* [query][group][row] */
} Tile;

/* The coordinates of all rows, and the tables of the queries, that are being multiplied. */
typedef struct {
    const Job *job;
    ptrdiff_t start, size; /* coordinates */
    const float *tables;
    ptrdiff_t stride;       /* floats from query to query */
    ptrdiff_t first, count; /* queries */
} Slice;

TARGET static void build_tables(const float *query, ptrdiff_t words, float *tables)
{
    float signs[BITS * LANES];
    for (int b = 0; b < BITS; b++)
        for (int i = 0; i < LANES; i++) signs[b * LANES + i] = (i >> b & 1) ? 1.0f : -1.0f;
    for (ptrdiff_t w = 0; w < words; w++, query += 32)
        for (int t = 0; t < LOOK_UPS; t++, tables += LANES) {
            VF sum = ZERO;
            for (int b = 0; b < BITS && t * BITS + b < 32; b++)
                sum = FMA(SET1(query[t * BITS + b]), LOADF(signs + b * LANES), sum);
            STOREF(tables, sum);
        }
}

/* LANES words at byte `offset` of LANES rows, row per lane; only `valid` bytes of each row may be read. */
TARGET static void transpose_some(const uint8_t *const *rows, ptrdiff_t offset, ptrdiff_t valid, void *out)
{
    if (valid >= (ptrdiff_t)(LANES * sizeof(uint32_t))) {
        transpose(rows, offset, out);
        return;
    }
    uint8_t padded[LANES][LANES * sizeof(uint32_t)];
    const uint8_t *pointers[LANES];
    memset(padded, 0, sizeof padded);
    for (int r = 0; r < LANES; r++) {
        if (valid > 0) memcpy(padded[r], rows[r] + offset, (size_t)valid);
        pointers[r] = padded[r];
    }
    transpose(pointers, 0, out);
}

/* Words first .. first + words of the line in `tile`, under one scale per row. */
TARGET static inline __attribute__((always_inline)) void look_up(const Tile *tile, const float *tables, ptrdiff_t first,
                                                                 ptrdiff_t words, ptrdiff_t column, float *totals,
                                                                 const int groups)
{
    VF even[GROUPS], odd[GROUPS]; /* two chains of additions hide their latency */
    UNROLL for (int g = 0; g < groups; g++) even[g] = odd[g] = ZERO;
    for (ptrdiff_t w = first; w < first + words; w++, tables += TABLE) {
        VI bits[GROUPS];
        UNROLL for (int g = 0; g < groups; g++) bits[g] = LOADI(tile->words + (g * WORDS + w) * LANES);
        UNROLL for (int t = 0; t < LOOK_UPS; t++)
        {
            const VF table = LOADF(tables + t * LANES);
            UNROLL for (int g = 0; g < groups; g++)
            {
                if (t % 2)
                    odd[g] = ADD(odd[g], LOOK_UP(table, bits[g]));
                else
                    even[g] = ADD(even[g], LOOK_UP(table, bits[g]));
                bits[g] = NEXT_BITS(bits[g]);
            }
        }
    }
    UNROLL for (int g = 0; g < groups; g++)
    {
        const VF factor = LOADF(tile->factors + (g * LANES + column) * LANES);
        STOREF(totals + g * LANES, FMA(factor, ADD(even[g], odd[g]), LOADF(totals + g * LANES)));
    }
}

/* Fetch a line of each of `rows` rows, or, past the end of this tile's lines, of the next tile's rows. */
TARGET static void fetch_lines(const Slice *slice, ptrdiff_t row, ptrdiff_t line, ptrdiff_t lines, ptrdiff_t rows)
{
    if (line >= lines) line -= lines, row += rows;
    if (line >= lines) return;
    const Job *job = slice->job;
    const uint8_t *code = job->codes + slice->start / 8 + line * LINE;
    for (ptrdiff_t r = row; r < smaller(row + rows, job->rows); r++) __builtin_prefetch(code + r * job->code_stride, 0, 3);
}

/* One line (up to 512 coordinates) of a tile of rows against the slice's queries. */
TARGET static inline __attribute__((always_inline)) void score_line(const Slice *slice, Tile *tile, ptrdiff_t line,
                                                                    const int groups)
{
    const Job *job = slice->job;
    const ptrdiff_t here = slice->start + line * 512, width = smaller(512, slice->start + slice->size - here);
    const ptrdiff_t block = job->block, segment = smaller(block, 512), first_block = slice->start / block;
    for (int g = 0; g < groups; g++)
        for (int w = 0; w < WORDS; w += LANES)
            transpose_some(tile->codes + g * LANES, here / 8 + 4 * w, width / 8 - 4 * w,
                           tile->words + (g * WORDS + w) * LANES);
    for (ptrdiff_t at = 0; at < width; at += segment) {
        const ptrdiff_t now = (here + at) / block, column = (now - first_block) % LANES;
        if (column == 0 && (here + at == slice->start || (here + at) % block == 0)) /* the next LANES scales of each row */
            for (int g = 0; g < groups; g++)
                transpose_some(tile->scales + g * LANES, now * 4, (job->coords / block - now) * 4,
                               tile->factors + g * LANES * LANES);
        for (ptrdiff_t q = 0; q < slice->count; q++)
            look_up(tile, slice->tables + q * slice->stride + (line * 512 + at) / 32 * TABLE, at / 32,
                    smaller(segment, width - at) / 32, column, tile->totals + q * GROUPS * LANES, groups);
    }
}

TARGET static inline __attribute__((always_inline)) void score_tile(const Slice *slice, Tile *tile, ptrdiff_t row,
                                                                    const int groups)
{
    const Job *job = slice->job;
    const ptrdiff_t lines = (slice->size + 511) / 512, rows = groups * LANES;
    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t real = smaller(row + r, job->rows - 1); /* past the end: repeated, then ignored */
        tile->codes[r] = job->codes + real * job->code_stride;
        tile->scales[r] = job->scales + real * job->scale_stride;
    }
    memset(tile->totals, 0, sizeof tile->totals);
    for (ptrdiff_t line = 0; line < lines; line++) {
        fetch_lines(slice, row, line + AHEAD, lines, rows);
        score_line(slice, tile, line, groups);
    }
    for (ptrdiff_t q = 0; q < slice->count; q++)
        for (ptrdiff_t r = 0; r < rows; r++)
            job->sums[(slice->first + q) * job->padded + row + r] += tile->totals[q * GROUPS * LANES + r];
}

TARGET static void score_slice(const Slice *slice, Tile *tile)
{
    for (ptrdiff_t row = 0; row < slice->job->rows; row += TILE_ROWS)
        if (slice->job->rows - row > LANES)
            score_tile(slice, tile, row, 2);
        else
            score_tile(slice, tile, row, 1);
}

static int score_bits(const Job *job)
{
    const ptrdiff_t most = smaller(job->count, BITS_QUERIES), size = tile_of(BITS_BUDGET, most, 512);
    const ptrdiff_t stride = smaller(size, job->coords) / 32 * TABLE;
    void *owner;
    float *tables = aligned_scratch((size_t)(most * stride) * sizeof(float) + sizeof(Tile), &owner);
    if (!tables) return -1;
    for (ptrdiff_t start = 0; start < job->coords; start += size)
        for (ptrdiff_t first = 0; first < job->count; first += most) {
            const Slice slice = {.job = job,
                                 .start = start,
                                 .size = smaller(size, job->coords - start),
                                 .tables = tables,
                                 .stride = stride,
                                 .first = first,
                                 .count = smaller(most, job->count - first)};
            for (ptrdiff_t q = 0; q < slice.count; q++)
                build_tables(query_row(job, first + q) + start, slice.size / 32, tables + q * stride);
            score_slice(&slice, (Tile *)(void *)(tables + most * stride));
        }
    free(owner);
    return 0;
}
