// Coulomb and Lennard-Jones interaction of pairs.
#pragma once

#include "elementary.hpp"
#include "workspace.hpp"

namespace bgdiff {

// In float32 r⁻¹² overflows, and the sum of two infinite forces is nan. Distances below 0.002 nm therefore count
// as 0.002 nm there: the energy is flat, large and finite. In float64 nothing is limited.
template <class L>
BGDIFF_INLINE L limited(L r2) {
    if constexpr (sizeof(typename L::Integer) == 4)
        return max(r2, 4e-6);
    else
        return r2;
}

template <class L>
struct Interaction {
    L energy, force;  // the force is divided by the distance
};

// q/r + a/r¹² - b/r⁶ from 1/r and 1/r².
template <class T, class L>
BGDIFF_INLINE Interaction<L> interact(const Pair<T> &pair, L inverse_r, L inverse_r2) {
    const L inverse_r6 = inverse_r2 * inverse_r2 * inverse_r2;
    const L coulomb = pair.charge * inverse_r;
    const L repulsion = (pair.c12 * inverse_r6) * inverse_r6;  // in this order 0 · r⁻¹² stays 0
    const L lennard_jones = repulsion - pair.c6 * inverse_r6;
    return {coulomb + lennard_jones, (coulomb + 6.0 * (lennard_jones + repulsion)) * inverse_r2};
}

template <class T, int W>
void add_pairs(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    for (int i = 0; i < p.n_atoms; ++i) {
        const int begin = p.row_begin[i], end = p.row_begin[i + 1];
        if (begin == end) continue;
        const Vec3<L> xi = w.position[i];
        Vec3<L> fi = w.force[i];
        L energy = 0.0;
        for (int b = begin; b < end; ++b) {
            const int j = p.partner[b];
            const Vec3<L> d = xi - w.position[j];
            const L inverse = rsqrt(limited(dot(d, d)));
            const Interaction<L> both = interact(p.pairs[b], inverse, inverse * inverse);
            energy += both.energy;
            const Vec3<L> force = both.force * d;
            fi += force;
            w.force[j] -= force;
        }
        w.force[i] = fi;
        w.energy.add(energy);
    }
}

}  // namespace bgdiff
