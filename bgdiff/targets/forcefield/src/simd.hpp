// Lanes<T, W>: W numbers that are computed on together, one per conformation.
//
// The kernel is written as if for one conformation. Every number in it is a Lanes, whose arithmetic is that of
// the compiler's vector types (GCC and Clang), so nothing depends on a loop being vectorised. Intrinsics are
// used only where those types have no operation: square roots, estimates of reciprocals, tests of all lanes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define BGDIFF_INLINE inline __attribute__((always_inline))

namespace bgdiff {

// Lanes in one register of the instruction set this file is compiled for.
#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

template <class T>
constexpr int kLanes = kRegisterBytes / int(sizeof(T));

template <class T, int W>
struct Lanes {
    using Integer = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
    typedef T Native __attribute__((vector_size(W * sizeof(T))));
    typedef Integer Bits __attribute__((vector_size(W * sizeof(T))));

    Native v;

    Lanes() = default;
    // x - 0 is x for every x, -0 included, so compilers emit a plain broadcast.
    BGDIFF_INLINE Lanes(double value) : v(T(value) - Native{}) {}
    BGDIFF_INLINE Lanes(Native native) : v(native) {}

    // Unaligned.
    static BGDIFF_INLINE Lanes load(const T* p) { Lanes x; std::memcpy(&x.v, p, sizeof x.v); return x; }
    BGDIFF_INLINE void store(T* p) const { std::memcpy(p, &v, sizeof v); }

    BGDIFF_INLINE Bits bits() const { return (Bits)v; }
    static BGDIFF_INLINE Lanes from_bits(Bits bits) { return Lanes((Native)bits); }

    friend BGDIFF_INLINE Lanes operator+(Lanes a, Lanes b) { return a.v + b.v; }
    friend BGDIFF_INLINE Lanes operator-(Lanes a, Lanes b) { return a.v - b.v; }
    friend BGDIFF_INLINE Lanes operator*(Lanes a, Lanes b) { return a.v * b.v; }
    friend BGDIFF_INLINE Lanes operator/(Lanes a, Lanes b) { return a.v / b.v; }
    friend BGDIFF_INLINE Lanes operator-(Lanes a) { return -a.v; }
    BGDIFF_INLINE Lanes& operator+=(Lanes b) { v += b.v; return *this; }
    BGDIFF_INLINE Lanes& operator-=(Lanes b) { v -= b.v; return *this; }
    BGDIFF_INLINE Lanes& operator*=(Lanes b) { v *= b.v; return *this; }

    // The comparison is part of the selection: compilers then use mask registers where there are any.
    // A comparison with nan is false.
    static BGDIFF_INLINE Lanes if_less(Lanes a, Lanes b, Lanes yes, Lanes no) { return a.v < b.v ? yes.v : no.v; }
    // b where either is nan
    friend BGDIFF_INLINE Lanes max(Lanes a, Lanes b) { return larger(a, b); }
    friend BGDIFF_INLINE Lanes min(Lanes a, Lanes b) { return smaller(a, b); }
    friend BGDIFF_INLINE Lanes abs(Lanes a) {
        constexpr Integer magnitude = sizeof(T) == 4 ? Integer(0x7fffffff) : Integer(0x7fffffffffffffff);
        return from_bits(a.bits() & magnitude);
    }

    // Bit l is set where a < b in lane l.
    static BGDIFF_INLINE unsigned less_bits(Lanes a, Lanes b);

private:
    static BGDIFF_INLINE Lanes larger(Lanes a, Lanes b);
    static BGDIFF_INLINE Lanes smaller(Lanes a, Lanes b);
};

template <class T, int W>
constexpr unsigned kAllLanes = (1u << W) - 1u;

template <class To, class From, int W>
BGDIFF_INLINE Lanes<To, W> convert(Lanes<From, W> x) {
    if constexpr (std::is_same_v<To, From>)
        return x;
    else
        return __builtin_convertvector(x.v, typename Lanes<To, W>::Native);
}

template <class T, int W>
BGDIFF_INLINE unsigned Lanes<T, W>::less_bits(Lanes a, Lanes b) {
    [[maybe_unused]] constexpr bool single = sizeof(T) == 4;
    [[maybe_unused]] constexpr int bytes = W * int(sizeof(T));
#if defined(__AVX512F__)
    if constexpr (bytes == 64 && single) return _mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, _CMP_LT_OQ);
    if constexpr (bytes == 64 && !single) return _mm512_cmp_pd_mask((__m512d)a.v, (__m512d)b.v, _CMP_LT_OQ);
#endif
#if defined(__AVX2__)
    if constexpr (bytes == 32 && single)
        return unsigned(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a.v, (__m256)b.v, _CMP_LT_OQ)));
    if constexpr (bytes == 32 && !single)
        return unsigned(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)a.v, (__m256d)b.v, _CMP_LT_OQ)));
#endif
#if defined(__SSE2__)
    if constexpr (bytes == 16 && single) return unsigned(_mm_movemask_ps(_mm_cmplt_ps((__m128)a.v, (__m128)b.v)));
    if constexpr (bytes == 16 && !single)
        return unsigned(_mm_movemask_pd(_mm_cmplt_pd((__m128d)a.v, (__m128d)b.v)));
#endif
    unsigned bits = 0;
    for (int l = 0; l < W; ++l) bits |= unsigned(a.v[l] < b.v[l]) << l;
    return bits;
}

template <class T, int W>
BGDIFF_INLINE Lanes<T, W> Lanes<T, W>::larger(Lanes a, Lanes b) {
#if defined(__AVX512F__)  // compilers make a comparison and a selection of the general form
    if constexpr (W * sizeof(T) == 64 && sizeof(T) == 4)
        return (Native)_mm512_maskz_max_ps(0xffff, (__m512)a.v, (__m512)b.v);
    if constexpr (W * sizeof(T) == 64 && sizeof(T) == 8)
        return (Native)_mm512_maskz_max_pd(0xff, (__m512d)a.v, (__m512d)b.v);
#endif
    return a.v > b.v ? a.v : b.v;
}

template <class T, int W>
BGDIFF_INLINE Lanes<T, W> Lanes<T, W>::smaller(Lanes a, Lanes b) {
#if defined(__AVX512F__)
    if constexpr (W * sizeof(T) == 64 && sizeof(T) == 4)
        return (Native)_mm512_maskz_min_ps(0xffff, (__m512)a.v, (__m512)b.v);
    if constexpr (W * sizeof(T) == 64 && sizeof(T) == 8)
        return (Native)_mm512_maskz_min_pd(0xff, (__m512d)a.v, (__m512d)b.v);
#endif
    return a.v < b.v ? a.v : b.v;
}

template <class T, int W>
BGDIFF_INLINE Lanes<T, W> sqrt(Lanes<T, W> x) {
    [[maybe_unused]] constexpr bool single = sizeof(T) == 4;
    [[maybe_unused]] constexpr int bytes = W * int(sizeof(T));
    using Native [[maybe_unused]] = typename Lanes<T, W>::Native;
#if defined(__AVX512F__)
    if constexpr (bytes == 64 && single) return (Native)_mm512_sqrt_ps((__m512)x.v);
    if constexpr (bytes == 64 && !single) return (Native)_mm512_sqrt_pd((__m512d)x.v);
#endif
#if defined(__AVX2__)
    if constexpr (bytes == 32 && single) return (Native)_mm256_sqrt_ps((__m256)x.v);
    if constexpr (bytes == 32 && !single) return (Native)_mm256_sqrt_pd((__m256d)x.v);
#endif
#if defined(__SSE2__)
    if constexpr (bytes == 16 && single) return (Native)_mm_sqrt_ps((__m128)x.v);
    if constexpr (bytes == 16 && !single) return (Native)_mm_sqrt_pd((__m128d)x.v);
#endif
    Lanes<T, W> root;
    for (int l = 0; l < W; ++l) root.v[l] = std::sqrt(x.v[l]);
    return root;
}

// Bits of the hardware's estimates of 1/sqrt(x) and 1/x; 0 where there are none. (Before AVX-512 float64 had to go
// through float32, which is slower than a division on recent processors.)
#if defined(__AVX512F__)
template <class T>
constexpr int kEstimateBits = 14;
#elif defined(__SSE2__)
template <class T>
constexpr int kEstimateBits = sizeof(T) == 4 ? 12 : 0;
#else
template <class T>
constexpr int kEstimateBits = 0;
#endif

template <class T, int W>
BGDIFF_INLINE Lanes<T, W> estimate_rsqrt(Lanes<T, W> x) {
    static_assert(W * sizeof(T) == kRegisterBytes);
    [[maybe_unused]] constexpr bool single = sizeof(T) == 4;
    using Native [[maybe_unused]] = typename Lanes<T, W>::Native;
#if defined(__AVX512F__)
    if constexpr (single) return (Native)_mm512_maskz_rsqrt14_ps(0xffff, (__m512)x.v);
    if constexpr (!single) return (Native)_mm512_maskz_rsqrt14_pd(0xff, (__m512d)x.v);
#elif defined(__AVX2__)
    if constexpr (single) return (Native)_mm256_rsqrt_ps((__m256)x.v);
#elif defined(__SSE2__)
    if constexpr (single) return (Native)_mm_rsqrt_ps((__m128)x.v);
#endif
    return 1.0 / sqrt(x);
}

template <class T, int W>
BGDIFF_INLINE Lanes<T, W> estimate_reciprocal(Lanes<T, W> x) {
    static_assert(W * sizeof(T) == kRegisterBytes);
    [[maybe_unused]] constexpr bool single = sizeof(T) == 4;
    using Native [[maybe_unused]] = typename Lanes<T, W>::Native;
#if defined(__AVX512F__)
    if constexpr (single) return (Native)_mm512_maskz_rcp14_ps(0xffff, (__m512)x.v);
    if constexpr (!single) return (Native)_mm512_maskz_rcp14_pd(0xff, (__m512d)x.v);
#elif defined(__AVX2__)
    if constexpr (single) return (Native)_mm256_rcp_ps((__m256)x.v);
#elif defined(__SSE2__)
    if constexpr (single) return (Native)_mm_rcp_ps((__m128)x.v);
#endif
    return 1.0 / x;
}

// 1/sqrt(x) of positive x, to about one unit in the last place; nan at 0 with estimates, infinity without.
//
// A division and a square root together cost 15 to 50 cycles a register. An estimate y and as many terms of the
// series in its error e = 1 - x y² as the precision needs cost 4 to 10:
// 1/sqrt(1 - e) = 1 + e/2 + 3 e²/8 + 5 e³/16 + ...
template <class T, int W>
BGDIFF_INLINE Lanes<T, W> rsqrt(Lanes<T, W> x) {
    using L = Lanes<T, W>;
    const L y = estimate_rsqrt(x);
    if constexpr (kEstimateBits<T> == 0) return y;
    const L e = 1.0 - x * y * y;
    if constexpr (sizeof(T) == 8)
        return y + y * (e * (0.5 + e * (0.375 + e * 0.3125)));
    else if constexpr (kEstimateBits<T> == 14)
        return y + y * (0.5 * e);
    else
        return y + y * (e * (0.5 + e * 0.375));
}

// 1/x to about one unit in the last place, likewise: 1/(1 - e) = 1 + e + e² + ..., e = 1 - x y.
template <class T, int W>
BGDIFF_INLINE Lanes<T, W> reciprocal(Lanes<T, W> x) {
    using L = Lanes<T, W>;
    const L y = estimate_reciprocal(x);
    if constexpr (kEstimateBits<T> == 0) return y;
    const L e = 1.0 - x * y;
    if constexpr (sizeof(T) == 8)
        return y + y * (e + e * (e + e * e));
    else if constexpr (kEstimateBits<T> == 14)
        return y + y * e;
    else
        return y + y * (e + e * e);
}

// W registers of W lanes as a matrix: rows become columns. Interleaving the first with the second half of the rows
// is a rotation of the bits of (row, column); log2(W) of them exchange the two.
template <class T, int W, int... K>
BGDIFF_INLINE void interleave(Lanes<T, W> (&a)[W], std::integer_sequence<int, K...>) {
    Lanes<T, W> b[W];
    for (int r = 0; r < W / 2; ++r) {
#if defined(__clang__) || __GNUC__ >= 12
        b[2 * r] = __builtin_shufflevector(a[r].v, a[r + W / 2].v, (K % 2 * W + K / 2)...);
        b[2 * r + 1] = __builtin_shufflevector(a[r].v, a[r + W / 2].v, (K % 2 * W + K / 2 + W / 2)...);
#else
        using Bits = typename Lanes<T, W>::Bits;
        b[2 * r] = __builtin_shuffle(a[r].v, a[r + W / 2].v, Bits{(K % 2 * W + K / 2)...});
        b[2 * r + 1] = __builtin_shuffle(a[r].v, a[r + W / 2].v, Bits{(K % 2 * W + K / 2 + W / 2)...});
#endif
    }
    for (int r = 0; r < W; ++r) a[r] = b[r];
}

template <class T, int W>
BGDIFF_INLINE void transpose(Lanes<T, W> (&a)[W]) {
    for (int stage = 1; stage < W; stage *= 2) interleave(a, std::make_integer_sequence<int, W>{});
}

// Points and vectors of W conformations.
template <class L>
struct Vec3 {
    L x, y, z;

    friend BGDIFF_INLINE Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
    friend BGDIFF_INLINE Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
    friend BGDIFF_INLINE Vec3 operator*(L s, Vec3 a) { return {s * a.x, s * a.y, s * a.z}; }
    BGDIFF_INLINE Vec3& operator+=(Vec3 b) { return *this = *this + b; }
    BGDIFF_INLINE Vec3& operator-=(Vec3 b) { return *this = *this - b; }
};

template <class L>
BGDIFF_INLINE L dot(Vec3<L> a, Vec3<L> b) {
    return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <class L>
BGDIFF_INLINE Vec3<L> cross(Vec3<L> a, Vec3<L> b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

}  // namespace bgdiff
