/* What the kernels share: one job over a slab of rows, and the table of implementations.
 *
 * A kernel adds  scale * <code row, query>  into `sums`, one double per (query, row). Every implementation gives each
 * (row, query) pair its own fixed order of additions, so a result never depends on the other rows, the other queries,
 * or how the rows were shared among threads. Nothing here knows Python.
 */
#ifndef WHENCE_NATIVE_H
#define WHENCE_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* Rows of `sums` are padded to this many documents, the widest row tile of any kernel. */
#define ROW_PADDING 64

typedef struct {
    ptrdiff_t rows, coords, count, block; /* documents, coordinates of each, queries, coordinates per scale */
    const uint8_t *codes;                 /* first row */
    ptrdiff_t code_stride;                /* bytes from row to row */
    const uint8_t *scales;                /* float32, first row */
    ptrdiff_t scale_stride;               /* bytes */
    const uint8_t *queries;               /* float32, first query */
    ptrdiff_t query_stride;               /* bytes */
    int bits;                             /* 1, 8 or 16 */
    double *sums;                         /* [count][padded] */
    ptrdiff_t padded;                     /* rows rounded up to ROW_PADDING */
} Job;

/* Returns 0, or -1 when scratch memory could not be had. */
typedef int (*Kernel)(const Job *job);

int score_portable(const Job *job);

#if defined(__x86_64__)
#define WHENCE_X86 1
int score_avx2(const Job *job);
int score_avx512(const Job *job);
#endif

static inline ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

static inline const float *query_row(const Job *job, ptrdiff_t query)
{
    return (const float *)(const void *)(job->queries + query * job->query_stride);
}

/* Scratch aligned to a cache line; the pointer to free comes back through `owner`. */
void *aligned_scratch(size_t bytes, void **owner);

/* Largest power of two of coordinates of which `queries` of them stay within `budget`, at least `least`. */
ptrdiff_t tile_of(ptrdiff_t budget, ptrdiff_t queries, ptrdiff_t least);

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#endif
