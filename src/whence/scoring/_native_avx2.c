/* The kernels for AVX2 with FMA and F16C: eight lanes, tables of three coordinates. */
#include "_native.h"

#ifdef WHENCE_X86

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define BITS 3
#define COLS 2
#define VF __m256
#define VI __m256i
#define ZERO _mm256_setzero_ps()
#define LOADF(p) _mm256_loadu_ps(p)
#define LOADI(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STOREF(p, v) _mm256_storeu_ps(p, v)
#define SET1(x) _mm256_set1_ps(x)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define ADD(a, b) _mm256_add_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define LOOK_UP(table, bits) _mm256_permutevar8x32_ps(table, bits)
#define NEXT_BITS(bits) _mm256_srli_epi32(bits, BITS)
#define FROM_INT8(p) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
#define FROM_HALF(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define ADD_ROW_SUMS(sums, a, b, c, d) add_row_sums(sums, a, b, c, d)

TARGET static inline void add_row_sums(double *sums, __m256 a, __m256 b, __m256 c, __m256 d)
{
    const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), _mm256_cvtps_pd(four)));
}

/* Eight 32-bit words of eight rows: 4 x 4 within lanes of 128 bits, then 2 x 2 of those lanes. */
TARGET static inline void transpose(const uint8_t *const *rows, ptrdiff_t offset, void *out)
{
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_si256((const __m256i *)(const void *)(rows[i] + offset));
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm256_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm256_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        _mm256_storeu_si256((__m256i *)out + j, _mm256_permute2x128_si256(a[j], a[j + 4], 0x20));
        _mm256_storeu_si256((__m256i *)out + j + 4, _mm256_permute2x128_si256(a[j], a[j + 4], 0x31));
    }
}

#include "_native_bits.h"
#include "_native_dots.h"

int score_avx2(const Job *job) { return job->bits == 1 ? score_bits(job) : score_dots(job); }

#endif
