// Elementary functions of Lanes, without branches and accurate to a few units in the last place.
//
// They are shorter than a library's, because their arguments are known to be ordinary: log of positive normal
// numbers only, exp saturating instead of overflowing, atan2 of a non-negative y unless said otherwise.
#pragma once

#include "simd.hpp"

namespace bgdiff {

constexpr double kPi = 3.14159265358979323846;

// c0 + x (c1 + x (c2 + ...))
template <class L>
BGDIFF_INLINE L polynomial(L, double c) {
    return L(c);
}
template <class L, class... Rest>
BGDIFF_INLINE L polynomial(L x, double c, Rest... rest) {
    return x * polynomial(x, rest...) + c;
}

// Natural logarithm of x > 0, normal.
template <class T, int W>
BGDIFF_INLINE Lanes<T, W> log(Lanes<T, W> x) {
    using L = Lanes<T, W>;
    using Bits = typename L::Bits;
    if constexpr (sizeof(T) == 4) {
        // x = 2^k m with m in [2/3, 4/3); minimax polynomial of log(1 + f) (N. Juffa).
        const Bits k = (x.bits() - 0x3f2aaaab) >> 23;
        const L exponent = __builtin_convertvector(k, typename L::Native);
        const L f = L::from_bits(x.bits() - (k << 23)) - 1.0, s = f * f;
        L a = polynomial(s, -0.166846126, -0.121483628, -0.130310059);
        L b = polynomial(s, 0.200120345, 0.139814854, 0.140869141);
        L p = -0.249996200 + s * a + f * b;
        p = f * p + 0.333331972;
        p = f * p - 0.5;
        return exponent * 0.693147182 + (s * p + f);
    } else {
        // fdlibm: x = 2^k m with m in [√½, √2), log(m) from s = f/(2 + f), f = m - 1.
        constexpr std::int64_t one = 0x3ff0000000000000, root_half = 0x3fe6a09e667f3bcd;
        constexpr std::int64_t magic = 0x4330000000000000;  // 2^52: its lowest bits hold an integer
        const Bits shifted = x.bits() + (one - root_half);
        // A signed shift would need AVX-512; the sign bit is 0 here, so shift unsigned.
        typedef std::uint64_t Unsigned __attribute__((vector_size(W * 8)));
        const Bits k = (Bits)((Unsigned)shifted >> 52);
        const L exponent = L::from_bits(k | magic) - (4503599627370496.0 + 1023.0);
        const L f = L::from_bits((shifted & 0x000fffffffffffff) + root_half) - 1.0;
        const L s = f * reciprocal(f + 2.0), z = s * s;
        const L r = z * polynomial(z, 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                                   2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                                   1.479819860511658591e-01);
        const L h = 0.5 * f * f;
        return exponent * 6.93147180559945286e-01 + (f - (h - s * (h + r)));
    }
}

// e^x; arguments outside ±87 (float) or ±700 (double) count as ±87 and ±700.
template <class T, int W>
BGDIFF_INLINE Lanes<T, W> exp(Lanes<T, W> x) {
    using L = Lanes<T, W>;
    // Adding 1.5 · 2^(mantissa bits) rounds to an integer and leaves it in the lowest bits.
    if constexpr (sizeof(T) == 4) {
        x = min(max(x, -87.0), 87.0);
        const L rounded = x * 1.44269504 + 12582912.0, k = rounded - 12582912.0;
        L r = x - k * 0.693145752;
        r = r - k * 1.42860677e-6;
        const L p = polynomial(r, 1.0, 1.0, 4.99999851e-1, 1.66664720e-1, 4.16695364e-2, 8.37312452e-3, 1.37805939e-3);
        return L::from_bits(p.bits() + (rounded.bits() << 23));
    } else {
        x = min(max(x, -700.0), 700.0);
        const L rounded = x * 1.4426950408889634 + 6755399441055744.0, k = rounded - 6755399441055744.0;
        L r = x - k * 6.93147180369123816490e-01;
        r = r - k * 1.90821492927058770002e-10;
        // Even and odd powers apart: two short chains instead of a long one.
        const L s = r * r;
        const L even = polynomial(s, 1.0, 1 / 2., 1 / 24., 1 / 720., 1 / 40320., 1 / 3628800.);
        const L odd = polynomial(s, 1.0, 1 / 6., 1 / 120., 1 / 5040., 1 / 362880., 1 / 39916800.);
        const L p = r * odd + even;
        return L::from_bits(p.bits() + (rounded.bits() << 52));
    }
}

template <class T, int W>
BGDIFF_INLINE Lanes<T, W> tanh(Lanes<T, W> x) {
    using L = Lanes<T, W>;
    const L e = exp(-2.0 * abs(x));
    const L y = (1.0 - e) * reciprocal(1.0 + e);
    return L::if_less(x, 0.0, -y, y);
}

// Angle in [0, π] of the point (x, y), y >= 0 (Cephes: three intervals of arctan, then the quadrant).
template <class T, int W>
BGDIFF_INLINE Lanes<T, W> atan2_upper(Lanes<T, W> y, Lanes<T, W> x) {
    using L = Lanes<T, W>;
    const L a = abs(x);
    // The short polynomial of float holds up to tan(π/8) only: beyond it an angle would be off by 2e-4.
    const L high = 2.414213562373095 * a, low = (sizeof(T) == 4 ? 0.4142135623730950 : 0.66) * a;
    const L top = L::if_less(high, y, -a, L::if_less(low, y, y - a, y));
    const L bottom = L::if_less(high, y, y, L::if_less(low, y, y + a, a));
    const L offset = L::if_less(high, y, kPi / 2, L::if_less(low, y, kPi / 4, 0.0));
    const L z = top * reciprocal(bottom), w = z * z;
    L angle;
    if constexpr (sizeof(T) == 4) {
        angle = w * z * polynomial(w, -3.33329491539e-1, 1.99777106478e-1, -1.38776856032e-1, 8.05374449538e-2) + z;
    } else {
        const L p = polynomial(w, -6.485021904942025371773e1, -1.228866684490136173410e2, -7.500855792314704667340e1,
                               -1.615753718733365076637e1, -8.750608600031904122785e-1);
        const L q = polynomial(w, 1.945506571482613964425e2, 4.853903996359136964868e2, 4.328810604912902668951e2,
                               1.650270098316988542046e2, 2.485846490142306297962e1, 1.0);
        angle = z * w * p * reciprocal(q) + z;
    }
    angle += offset;
    return L::if_less(x, 0.0, kPi - angle, angle);
}

}  // namespace bgdiff
