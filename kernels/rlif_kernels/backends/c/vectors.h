/* Vectors of float32 as wide as the processor's own, and what the kernels do with them.

   The arithmetic is written in the vector extensions that GCC and Clang share. Vectors wider than the processor's are
   left out on purpose: a compiler takes them apart, badly (GCC 12 needs a minute of processor time for 64-byte vectors
   on AVX2, and what comes out takes two to eight times as long). What the extensions have no word for (maxima, a
   widening to float64, 16-bit floats) is an intrinsic of each instruction set: AVX-512, AVX2, SSE2 and NEON; elsewhere
   plain C. Which of them the compiler says by its macros. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define AVX512 1
#define INSTRUCTIONS "AVX-512"
#define LANES 16
#include <immintrin.h>
#elif defined(__AVX2__)
#define AVX2 1
#define INSTRUCTIONS "AVX2"
#define LANES 8
#include <immintrin.h>
#elif defined(__SSE2__)
#define SSE2 1
#define INSTRUCTIONS "SSE2"
#define LANES 4
#include <emmintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__ARM_FP16_FORMAT_IEEE)
#define NEON 1
#define INSTRUCTIONS "NEON"
#define LANES 4
#include <arm_neon.h>
#else
#define INSTRUCTIONS "no vector instructions known"
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float f32 __attribute__((vector_size(4 * LANES)));
typedef double f64 __attribute__((vector_size(4 * LANES))); /* half as many lanes */
typedef int32_t i32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16 __attribute__((vector_size(2 * LANES)));

enum { FLOAT32, BFLOAT16, FLOAT16 };

INLINE size_t size_of(int dtype) { return dtype == FLOAT32 ? 4 : 2; }

INLINE f32 splat(float x) { return (f32){0} + x; }
INLINE f32 pick(i32 mask, f32 yes, f32 no) { return (f32)(((i32)yes & mask) | ((i32)no & ~mask)); }

INLINE int any(i32 mask) {
#if defined(AVX512)
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(AVX2)
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(SSE2)
    return _mm_movemask_ps((__m128)mask) != 0;
#elif defined(NEON)
    return vmaxvq_u32((uint32x4_t)mask) != 0;
#else
    int32_t all = 0;
    for (int i = 0; i < LANES; i++) all |= mask[i];
    return all != 0;
#endif
}

/* NaN in b is kept; NaN in a may be lost. */
INLINE f32 larger(f32 a, f32 b) {
#if defined(AVX512)
    return (f32)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(AVX2)
    return (f32)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(SSE2)
    return (f32)_mm_max_ps((__m128)a, (__m128)b);
#elif defined(NEON)
    return (f32)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#else
    return pick(a > b, a, b);
#endif
}

INLINE f32 smaller(f32 a, f32 b) {
#if defined(AVX512)
    return (f32)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(AVX2)
    return (f32)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(SSE2)
    return (f32)_mm_min_ps((__m128)a, (__m128)b);
#elif defined(NEON)
    return (f32)vminq_f32((float32x4_t)a, (float32x4_t)b);
#else
    return pick(a < b, a, b);
#endif
}

/* The lower and the upper half of a float32 vector as two float64 vectors. */
INLINE void widen(f32 v, f64 *low, f64 *high) {
#if defined(AVX512)
    *low = (f64)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
    *high = (f64)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(AVX2)
    *low = (f64)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
    *high = (f64)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#elif defined(SSE2)
    *low = (f64)_mm_cvtps_pd((__m128)v);
    *high = (f64)_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v));
#elif defined(NEON)
    *low = (f64)vcvt_f64_f32(vget_low_f32((float32x4_t)v));
    *high = (f64)vcvt_high_f64_f32((float32x4_t)v);
#else
    for (int i = 0; i < LANES / 2; i++) (*low)[i] = v[i], (*high)[i] = v[i + LANES / 2];
#endif
}

/* Add the two halves to two float64 vectors. */
INLINE void add_widened(f32 v, f64 *low, f64 *high) {
    f64 lower, upper;
    widen(v, &lower, &upper);
    *low += lower;
    *high += upper;
}

INLINE double total(f64 low, f64 high) {
    f64 both = low + high;
    double sum = 0;
    for (int i = 0; i < LANES / 2; i++) sum += both[i];
    return sum;
}

/* ---------------------------------------------------------------- memory */

INLINE u32 load_16(const void *from) {
    u16 half;
    memcpy(&half, from, sizeof half);
#if defined(AVX512)
    return (u32)_mm512_cvtepu16_epi32((__m256i)half);
#elif defined(AVX2)
    return (u32)_mm256_cvtepu16_epi32((__m128i)half);
#elif defined(NEON)
    return (u32)vmovl_u16((uint16x4_t)half);
#else
    u32 wide;
    for (int i = 0; i < LANES; i++) wide[i] = half[i];
    return wide;
#endif
}

/* The lower 16 bits of each lane. */
INLINE void store_16(void *to, u32 bits) {
    u16 half;
#if defined(AVX512)
    half = (u16)_mm512_cvtepi32_epi16((__m512i)bits);
#elif defined(AVX2)
    __m256i packed = _mm256_packus_epi32((__m256i)(bits & 0xffff), (__m256i)(bits & 0xffff));
    half = (u16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 8));
#elif defined(NEON)
    half = (u16)vmovn_u32((uint32x4_t)bits);
#else
    for (int i = 0; i < LANES; i++) half[i] = (uint16_t)bits[i];
#endif
    memcpy(to, &half, sizeof half);
}

/* LANES numbers of a dtype, from any address. */
INLINE f32 load(const void *from, int dtype) {
    f32 x;
    if (dtype == FLOAT32) {
        memcpy(&x, from, sizeof x);
        return x;
    }
    if (dtype == BFLOAT16) return (f32)(load_16(from) << 16);
#if defined(AVX512)
    return (f32)_mm512_cvtph_ps(_mm256_loadu_si256(from));
#elif defined(AVX2) && defined(__F16C__)
    return (f32)_mm256_cvtph_ps(_mm_loadu_si128(from));
#elif defined(NEON)
    return (f32)vcvt_f32_f16(vld1_f16(from));
#else
    /* Exponent and fraction moved into place are the number times 2^-112, subnormal ones too. */
    u32 bits = load_16(from), magnitude = (bits & 0x7fff) << 13;
    u32 scaled = (u32)((f32)magnitude * splat(0x1p112f));
    u32 special = (u32)((bits & 0x7c00) == 0x7c00);
    return (f32)(scaled | (special & 0x7f800000) | (bits & 0x8000) << 16);
#endif
}

INLINE void store(void *to, f32 x, int dtype) {
    if (dtype == FLOAT32) {
        memcpy(to, &x, sizeof x);
    } else if (dtype == BFLOAT16) {
        /* To nearest, ties to even. NaN comes through, because none here has a fraction whose bits are all ones: those
           of bfloat16 logits end in 16 zeros, and those of coefficients are made new (`row_terms`). */
        u32 bits = (u32)x;
        store_16(to, (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    } else {
#if defined(AVX512)
        _mm256_storeu_si256(to, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(AVX2) && defined(__F16C__)
        _mm_storeu_si128(to, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(NEON)
        vst1_f16(to, vcvt_f16_f32((float32x4_t)x));
#else
        u32 bits = (u32)x, sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
        /* Below 2^-14 steps are 2^-24: a sum with 0.5, whose steps they are, rounds to them. */
        u32 subnormal = (u32)((f32)magnitude + splat(0.5f)) - 0x3f000000;
        u32 normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112 << 23)) >> 13;
        u32 small = (u32)(magnitude < 113 << 23), huge = (u32)(magnitude >= 0x477ff000);
        u32 nan = (u32)(magnitude > 0x7f800000);
        u32 result = (subnormal & small) | (normal & ~small);
        result = (result & ~huge) | (huge & 0x7c00) | (nan & 0x0200);
        store_16(to, result | sign);
#endif
    }
}

/* The last numbers of a row, fewer than LANES; the lanes beyond hold -inf, of 16-bit dtypes anything. */
INLINE f32 load_some(const void *from, int64_t count, int dtype) {
    float room[LANES];
    f32 outside = splat(-INFINITY);
    memcpy(room, &outside, sizeof room);
    memcpy(room, from, size_of(dtype) * (size_t)count);
    return load(room, dtype);
}

INLINE void store_some(void *to, f32 x, int64_t count, int dtype) {
    float room[LANES];
    store(room, x, dtype);
    memcpy(to, room, size_of(dtype) * (size_t)count);
}

/* ---------------------------------------------------------------- functions */

/* Below 2^-100 an exponential is next to nothing, and 2^-100 here: a product with the clamped exponent is nothing too,
   and with a small coefficient still no subnormal number, on which processors stumble. NaN stays. */
#define LOWEST (-100.0f)
INLINE f32 clamp(f32 d) { return larger(splat(LOWEST), d); }

/* 2^d for d in [LOWEST, 127), to 1.7e-7 of it, and exactly 1 for d = 0: a minimax polynomial through that point, whose
   own error is 9e-8, on the half around the nearest integer, which goes into the exponent. NaN may come out as any
   number. */
INLINE f32 exp2_clamped(f32 d) {
    f32 shifted = d + splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer in the low bits */
    f32 r = d - (shifted - splat(12582912.0f));
    f32 p = splat(0.001326472731307149f);
    p = p * r + splat(0.009671512991189957f);
    p = p * r + splat(0.05550733581185341f);
    p = p * r + splat(0.24022242426872253f);
    p = p * r + splat(0.6931470036506653f);
    p = p * r + splat(1.0f);
    return (f32)((i32)p + ((i32)shifted << 23));
}

#define LOG2_E 1.4426950408889634
#define LN_2 0.6931471805599453

/* log2 x of normal numbers above 0, to 2e-7 of it, and exactly 0 for x = 1: of the fraction m in [sqrt 1/2, sqrt 2] it is
   2 / ln 2 atanh s with s = (m - 1) / (m + 1), whose series from s^11 on is below 1e-8 of it. */
INLINE f32 log2_(f32 x) {
    i32 exponent = ((i32)x - 0x3f3504f3) >> 23;
    f32 m = (f32)((i32)x - (exponent << 23));
    f32 s = (m - splat(1.0f)) / (m + splat(1.0f)), s2 = s * s;
    f32 p = splat((float)(2 * LOG2_E / 9));
    p = p * s2 + splat((float)(2 * LOG2_E / 7));
    p = p * s2 + splat((float)(2 * LOG2_E / 5));
    p = p * s2 + splat((float)(2 * LOG2_E / 3));
    p = p * s2 + splat((float)(2 * LOG2_E));
    return p * s + __builtin_convertvector(exponent, f32);
}

/* tanh: the exponential form cancels near 0, where a fitted odd polynomial takes its place. */
INLINE f32 tanh_(f32 x) {
    f32 a = pick(x < splat(0.0f), -x, x), x2 = x * x;
    f32 near = splat(-0.005652355030179024f);
    near = near * x2 + splat(0.020583488047122955f);
    near = near * x2 + splat(-0.053718484938144684f);
    near = near * x2 + splat(0.13331091403961182f);
    near = near * x2 + splat(-0.3333325982093811f);
    near = (near * x2 + splat(1.0f)) * x;
    f32 e = exp2_clamped(clamp(a * splat((float)(-2 * LOG2_E))));
    f32 far = (splat(1.0f) - e) / (splat(1.0f) + e);
    return pick(a < splat(0.625f), near, pick(x < splat(0.0f), -far, far));
}

INLINE f32 cap(f32 x, float softcap) {
    f32 capped = splat(softcap) * tanh_(x * splat(1.0f / softcap));
    i32 special = (x == splat(INFINITY)) | (x == splat(-INFINITY)) | (x != x); /* the row must know of them */
    return pick(special, x, capped);
}
