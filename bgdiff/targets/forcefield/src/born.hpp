// Generalised Born solvation together with the direct interaction of all pairs.
//
// Three passes over the pairs: Born integrals (and the direct interaction, since r is at hand), the Born energy
// with its derivatives by r and by the Born radii, and the force. Pass 1 stores the derivatives of the integrals,
// which pass 3 needs once dU/dI is known: three numbers a pair, which exceed the second-level cache beyond about
// 100 atoms. Each pass goes through the rows in the direction opposite to the one before, so that it begins with
// what is still in the cache; computing the derivatives again would cost more than reading them.
#pragma once

#include "descreening.hpp"
#include "pairs.hpp"

namespace bgdiff {

template <bool Necks, class T, int W>
void add_integrals(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    for (int i = 0; i < p.n_atoms; ++i) w.integral[i] = 0.0;
    for (int i = 0; i < p.n_atoms; ++i) {
        const Vec3<L> xi = w.position[i];
        const BornAtom<T> &atom_i = p.born_atoms[i];
        L integral_i = w.integral[i], energy = 0.0;
        for (int j = i + 1, b = p.row_begin[i]; j < p.n_atoms; ++j, ++b) {
            const BornAtom<T> &atom_j = p.born_atoms[j];
            const Vec3<L> d = xi - w.position[j];
            const L r2 = limited(dot(d, d)), inverse = rsqrt(r2), inverse2 = inverse * inverse;
            const Interaction<L> direct = interact(p.pairs[b], inverse, inverse2);
            energy += direct.energy;

            // Each lane takes the form that suits its own distance, so its result does not depend on the others.
            const L far = p.born_pairs[b].far;
            const unsigned far_lanes = L::less_bits(far, r2);
            Descreening<L> sum;
            if (__builtin_expect(far_lanes != 0, 1)) sum = descreen_far(atom_i, atom_j, inverse2);
            if (__builtin_expect(far_lanes != kAllLanes<T, W>, 0)) {
                const Descreening<L> near = descreen_near(atom_i, atom_j, r2, inverse, inverse2, p.engulf);
                if (far_lanes == 0) sum = near;
                sum.on_i = L::if_less(far, r2, sum.on_i, near.on_i);
                sum.on_j = L::if_less(far, r2, sum.on_j, near.on_j);
                sum.slope_i = L::if_less(far, r2, sum.slope_i, near.slope_i);
                sum.slope_j = L::if_less(far, r2, sum.slope_j, near.slope_j);
            }
            if constexpr (Necks) add_necks(p.neck_pairs[b], r2 * inverse, inverse, sum);
            integral_i += sum.on_i;
            w.integral[j] += sum.on_j;
            w.pair[b] = {direct.force, sum.slope_i, sum.slope_j};
        }
        w.integral[i] = integral_i;
        w.energy.add(energy);
    }
}

// Born radii, the terms of single atoms, and dB/dI.
template <class T, int W>
void add_self_energies(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    L energy = 0.0;
    for (int i = 0; i < p.n_atoms; ++i) {
        const BornAtom<T> &atom = p.born_atoms[i];
        L inverse, slope;  // 1/B and -d(1/B)/dI
        if (p.rescaled) {
            const L psi = w.integral[i] * atom.offset_radius;
            const L t = tanh(psi * (atom.alpha + psi * (atom.gamma * psi - atom.beta)));
            inverse = atom.inverse_offset - t * atom.inverse_radius;
            slope = (1.0 - t * t) * (atom.alpha + psi * (3.0 * atom.gamma * psi - 2.0 * atom.beta)) *
                    (atom.offset_radius * atom.inverse_radius);
        } else {
            inverse = atom.inverse_offset - w.integral[i];
            slope = 1.0;
        }
        const L radius = 1.0 / inverse, inverse3 = inverse * inverse * inverse;
        const T charge = T(-0.5) * p.prefactor * atom.charge * atom.charge;
        const L surface = atom.surface * inverse3 * inverse3;
        energy += charge * inverse + surface;
        w.radius[i] = radius;
        w.inverse[i] = inverse;
        w.chain[i] = -(charge * inverse + 6.0 * surface) * inverse;
        w.integral[i] = radius * radius * slope;
    }
    w.energy.add(energy);
}

// -P q_i q_j / f; its derivatives by r (added to `direct`) and by both Born radii.
template <class T, int W>
void add_pair_energies(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    for (int i = p.n_atoms - 1; i >= 0; --i) {
        const Vec3<L> xi = w.position[i];
        const L radius_i = w.radius[i], quarter_inverse_i = 0.25 * w.inverse[i];
        const T charge_i = p.prefactor * p.born_atoms[i].charge;
        L chain_i = w.chain[i], energy = 0.0;
        for (int j = i + 1, b = p.row_begin[i]; j < p.n_atoms; ++j, ++b) {
            const Vec3<L> d = xi - w.position[j];
            const L r2 = dot(d, d), radius_j = w.radius[j];
            const L exponent = r2 * (quarter_inverse_i * w.inverse[j]);
            const L decay = exp(-exponent);
            const L inverse_f = rsqrt(r2 + radius_i * radius_j * decay);
            const L term = L(charge_i * p.born_atoms[j].charge) * inverse_f;
            energy -= term;
            const L half = 0.5 * term * inverse_f * inverse_f, by_radii = half * decay * (1.0 + exponent);
            w.pair[b].direct -= half * (2.0 - 0.5 * decay);
            chain_i += by_radii * radius_j;
            w.chain[j] += by_radii * radius_i;
        }
        w.chain[i] = chain_i;
        w.energy.add(energy);
    }
    for (int i = 0; i < p.n_atoms; ++i) w.chain[i] *= w.integral[i];
}

template <class T, int W>
void add_pair_forces(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    for (int i = 0; i < p.n_atoms; ++i) {
        const Vec3<L> xi = w.position[i];
        const L chain_i = w.chain[i];
        Vec3<L> fi = w.force[i];
        for (int j = i + 1, b = p.row_begin[i]; j < p.n_atoms; ++j, ++b) {
            const PairState<L> &pair = w.pair[b];
            const L along = pair.direct - chain_i * pair.descreening_i - w.chain[j] * pair.descreening_j;
            const Vec3<L> force = along * (xi - w.position[j]);
            fi += force;
            w.force[j] -= force;
        }
        w.force[i] = fi;
    }
}

template <class T, int W>
void add_born(const Parameters<T> &p, Workspace<T, W> &w) {
    if (p.necks)
        add_integrals<true>(p, w);
    else
        add_integrals<false>(p, w);
    add_self_energies(p, w);
    add_pair_energies(p, w);
    add_pair_forces(p, w);
}

}  // namespace bgdiff
