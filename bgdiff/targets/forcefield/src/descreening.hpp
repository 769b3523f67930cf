// How one atom's sphere descreens another: the pairwise integrals of generalised Born models.
//
// Hawkins, Cramer & Truhlar, J. Phys. Chem. 100, 19824 (1996), in OpenMM's form; see GeneralizedBornTable in
// tables.py for the formulas.
#pragma once

#include "elementary.hpp"
#include "parameters.hpp"

namespace bgdiff {

// I_ij (by j's sphere on atom i) and dI_ij/dr / r; the same for j.
template <class L>
struct Descreening {
    L on_i, slope_i, on_j, slope_j;
};

// (atanh(√w)/√w - 1)/w on [0, ¼] = 1/3 + w/5 + w²/7 + ..., as a minimax polynomial.
template <class T, int W>
BGDIFF_INLINE Lanes<T, W> atanh_series(Lanes<T, W> w) {
    if constexpr (sizeof(T) == 4) {
        return polynomial(w, 0.3333333168479454, 0.2000047330953935, 0.1426397985264627, 0.11469875161618762,
                          0.06493489567669346, 0.15751780259152603);
    } else {  // even and odd powers apart: two short chains instead of a long one
        const Lanes<T, W> s = w * w;
        const Lanes<T, W> even = polynomial(s, 0.3333333333333334, 0.14285714288195786, 0.09090918911391244,
                                            0.06671177979729383, 0.056599417377332484, 0.1145475451088902,
                                            0.19745426478533493);
        const Lanes<T, W> odd = polynomial(s, 0.19999999999988882, 0.11111110894155087, 0.07692044266759973,
                                           0.058309531156912356, 0.026913545051501023, -0.10951650742612855);
        return w * odd + even;
    }
}

// Beyond max(o + s, 2 s) the integral is, with z = s/r and w = z², exactly
//     I = z³/(2 r) [1/(1 - w) - Q(w)],   Q the series above,
// which needs no logarithm and, unlike the closed form, loses no digits to cancellation.
template <class T, class L>
BGDIFF_INLINE Descreening<L> descreen_far(const BornAtom<T> &i, const BornAtom<T> &j, L inverse_r2) {
    const L w_i = inverse_r2 * j.scaled_squared, w_j = inverse_r2 * i.scaled_squared;
    const L rest_i = 1.0 - w_i, rest_j = 1.0 - w_j, both = reciprocal(rest_i * rest_j);
    const L pole_i = both * rest_j, pole_j = both * rest_i;
    const L inverse_r4 = inverse_r2 * inverse_r2;
    const L c_i = inverse_r4 * j.scaled_cubed_half, c_j = inverse_r4 * i.scaled_cubed_half;
    const L g_i = pole_i - atanh_series(w_i), g_j = pole_j - atanh_series(w_j);
    return {c_i * g_i, -(c_i * inverse_r2) * (g_i + 2.0 * pole_i * pole_i),
            c_j * g_j, -(c_j * inverse_r2) * (g_j + 2.0 * pole_j * pole_j)};
}

// The closed form for one direction: an atom of offset radius o in the sphere s.
template <class T, class L>
BGDIFF_INLINE void descreen_near(L r, L inverse_r, L inverse_r2, T o, T s, L lower, L inverse_lower, L inverse_upper,
                                 bool engulf, L &integral, L &slope) {
    const L depth = r - s;
    const L log_term = log(lower * inverse_upper) * inverse_r;
    const L squares = inverse_upper * inverse_upper - inverse_lower * inverse_lower;
    const L span = r - inverse_r * (s * s);
    integral = 0.5 * (inverse_lower - inverse_upper + 0.25 * span * squares + 0.5 * log_term);
    // dl/dr / l, l = max(o, |r - s|)
    const L moving = L::if_less(o, abs(depth), L::if_less(depth, 0.0, -inverse_lower, inverse_lower), 0.0);
    slope = 0.5 * (inverse_upper * inverse_upper - moving * inverse_lower +
                   0.25 * (1.0 + inverse_r2 * (s * s)) * squares +
                   0.5 * span *
                       (moving * inverse_lower * inverse_lower - inverse_upper * inverse_upper * inverse_upper) +
                   0.5 * (moving - inverse_upper) * inverse_r - 0.5 * log_term * inverse_r);
    if (engulf) {
        integral = L::if_less(o, -depth, integral + (1.0 / L(o) - inverse_lower), integral);
        slope = L::if_less(o, -depth, slope + moving * inverse_lower, slope);
    }
    // Nothing of the sphere is outside of the atom: no descreening.
    integral = L::if_less(r + s, o, 0.0, integral);
    slope = L::if_less(r + s, o, 0.0, slope * inverse_r);
}

template <class T, class L>
BGDIFF_INLINE Descreening<L> descreen_near(const BornAtom<T> &i, const BornAtom<T> &j, L r2, L inverse_r,
                                           L inverse_r2, bool engulf) {
    const L r = r2 * inverse_r;
    // Where r + s < o the integral is 0; the limit only keeps the unused numbers finite (s may be negative).
    const L upper_i = max(r + j.scaled_radius, i.offset_radius), upper_j = max(r + i.scaled_radius, j.offset_radius);
    const L lower_i = max(abs(r - j.scaled_radius), i.offset_radius);
    const L lower_j = max(abs(r - i.scaled_radius), j.offset_radius);
    const L product_i = lower_i * upper_i, product_j = lower_j * upper_j, both = reciprocal(product_i * product_j);
    const L inverse_i = both * product_j, inverse_j = both * product_i;
    Descreening<L> result;
    descreen_near(r, inverse_r, inverse_r2, i.offset_radius, j.scaled_radius, lower_i, inverse_i * upper_i,
                  inverse_i * lower_i, engulf, result.on_i, result.slope_i);
    descreen_near(r, inverse_r, inverse_r2, j.offset_radius, i.scaled_radius, lower_j, inverse_j * upper_j,
                  inverse_j * lower_j, engulf, result.on_j, result.slope_j);
    return result;
}

// The neck between two close spheres (Mongan et al., J. Chem. Theory Comput. 3, 156 (2007)).
template <class T, class L>
BGDIFF_INLINE void add_neck(L r, L inverse_r, T distance, T strength, T cutoff, L &integral, L &slope) {
    const L x = r - distance, x2 = x * x, x4 = x2 * x2;
    const L inverse = reciprocal(1.0 + 100.0 * x2 + 3e5 * x4 * x2), value = strength * inverse;
    integral += L::if_less(cutoff, r, 0.0, value);
    slope -= L::if_less(cutoff, r, 0.0, value * inverse * (200.0 * x + 1.8e6 * x4 * x) * inverse_r);
}

template <class T, class L>
BGDIFF_INLINE void add_necks(const NeckPair<T> &neck, L r, L inverse_r, Descreening<L> &sum) {
    add_neck(r, inverse_r, neck.distance_ij, neck.strength_ij, neck.cutoff_ij, sum.on_i, sum.slope_i);
    add_neck(r, inverse_r, neck.distance_ji, neck.strength_ji, neck.cutoff_ji, sum.on_j, sum.slope_j);
}

}  // namespace bgdiff
