/* The kernels for AVX-512 (F, BW, DQ, VL): sixteen lanes, tables of four coordinates. */
#include "_native.h"

#ifdef WHENCE_X86

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define LANES 16
#define BITS 4
#define COLS 6
#define VF __m512
#define VI __m512i
#define ZERO _mm512_setzero_ps()
#define LOADF(p) _mm512_loadu_ps(p)
#define LOADI(p) _mm512_loadu_si512(p)
#define STOREF(p, v) _mm512_storeu_ps(p, v)
#define SET1(x) _mm512_set1_ps(x)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define ADD(a, b) _mm512_add_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define LOOK_UP(table, bits) _mm512_permutexvar_ps(bits, table)
#define NEXT_BITS(bits) _mm512_srli_epi32(bits, BITS)
#define FROM_INT8(p) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#define FROM_HALF(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define ADD_ROW_SUMS(sums, a, b, c, d) add_row_sums(sums, a, b, c, d)

TARGET static inline __m256 halved(__m512 v)
{
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

TARGET static inline void add_row_sums(double *sums, __m512 a, __m512 b, __m512 c, __m512 d)
{
    const __m256 ab = _mm256_hadd_ps(halved(a), halved(b)), cd = _mm256_hadd_ps(halved(c), halved(d));
    const __m256 all = _mm256_hadd_ps(ab, cd);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), _mm256_cvtps_pd(four)));
}

/* Sixteen 32-bit words of sixteen rows: 4 x 4 within lanes of 128 bits, then 4 x 4 of those lanes. */
TARGET static inline void transpose(const uint8_t *const *rows, ptrdiff_t offset, void *out)
{
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(rows[i] + offset);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        const __m512i low = _mm512_shuffle_i32x4(a[j], a[j + 4], 0x44), high = _mm512_shuffle_i32x4(a[j], a[j + 4], 0xEE);
        const __m512i low2 = _mm512_shuffle_i32x4(a[j + 8], a[j + 12], 0x44);
        const __m512i high2 = _mm512_shuffle_i32x4(a[j + 8], a[j + 12], 0xEE);
        __m512i *to = (__m512i *)out;
        _mm512_storeu_si512(to + j, _mm512_shuffle_i32x4(low, low2, 0x88));
        _mm512_storeu_si512(to + j + 4, _mm512_shuffle_i32x4(low, low2, 0xDD));
        _mm512_storeu_si512(to + j + 8, _mm512_shuffle_i32x4(high, high2, 0x88));
        _mm512_storeu_si512(to + j + 12, _mm512_shuffle_i32x4(high, high2, 0xDD));
    }
}

#include "_native_bits.h"
#include "_native_dots.h"

int score_avx512(const Job *job) { return job->bits == 1 ? score_bits(job) : score_dots(job); }

#endif
