// Bonds, angles and torsions.
#pragma once

#include "elementary.hpp"
#include "workspace.hpp"

namespace bgdiff {

// Squared lengths below these count as them. They are far below any that occurs; they keep coincident atoms and
// exactly straight angles finite, whose force has no direction and comes out as 0.
template <class T>
constexpr double kTinySquared = sizeof(T) == 4 ? 1e-16 : 1e-30;  // nm²
template <class T>
constexpr double kTinyCross = sizeof(T) == 4 ? 1e-24 : 1e-36;  // nm⁴, of cross products

template <class T, int W>
void add_bonds(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    L energy = 0.0;
    for (const Bond<T> &bond : p.bonds) {
        const Vec3<L> d = w.position[bond.i] - w.position[bond.j];
        const L r2 = max(dot(d, d), kTinySquared<T>), inverse = rsqrt(r2);
        const L stretch = r2 * inverse - bond.length, tension = bond.k * stretch;
        energy += 0.5 * tension * stretch;
        const Vec3<L> force = (tension * inverse) * d;
        w.force[bond.i] -= force;
        w.force[bond.j] += force;
    }
    w.energy.add(energy);
}

template <class T, int W>
void add_angles(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    L energy = 0.0;
    for (const Angle<T> &term : p.angles) {
        const Vec3<L> u = w.position[term.i] - w.position[term.j], v = w.position[term.k] - w.position[term.j];
        const Vec3<L> normal = cross(u, v);
        const L uu = max(dot(u, u), kTinySquared<T>), vv = max(dot(v, v), kTinySquared<T>);
        const L nn = max(dot(normal, normal), kTinyCross<T>), inverse = rsqrt(nn), uv = dot(u, v);
        const L bend = atan2_upper(nn * inverse, uv) - term.angle, torque = term.force_constant * bend;
        energy += 0.5 * torque * bend;
        // Along u × (u × v) = u (u·v) - v (u·u), and likewise for k.
        const L pull = torque * inverse;
        const Vec3<L> on_i = pull * (v - (uv * reciprocal(uu)) * u);
        const Vec3<L> on_k = pull * (u - (uv * reciprocal(vv)) * v);
        w.force[term.i] += on_i;
        w.force[term.k] += on_k;
        w.force[term.j] -= on_i + on_k;
    }
    w.energy.add(energy);
}

// The torsion angle of four points as cosine and sine, and the forces that a torque dU/dφ puts on them
// (Blondel & Karplus, J. Comput. Chem. 17, 1132 (1996)). No angle is computed, and nothing is singular at 0 or π.
template <class L, class T>
struct TorsionAngle {
    Vec3<L> m, n;  // normals of the planes ijk and jkl
    L inverse_mm, inverse_nn, axis, overlap_i, overlap_l;
    L cosine, sine;

    BGDIFF_INLINE TorsionAngle(Vec3<L> xi, Vec3<L> xj, Vec3<L> xk, Vec3<L> xl) {
        const Vec3<L> a = xj - xi, b = xk - xj, c = xl - xk;
        m = cross(a, b);
        n = cross(b, c);
        const L bb = max(dot(b, b), kTinySquared<T>), inverse_b = rsqrt(bb);
        const L inverse_m = rsqrt(max(dot(m, m), kTinyCross<T>)), inverse_n = rsqrt(max(dot(n, n), kTinyCross<T>));
        const L inverse = inverse_m * inverse_n, inverse_bb = inverse_b * inverse_b;
        axis = bb * inverse_b;
        // Of nearly straight atoms the normals are rounding errors, and powers of a cosine above 1 would explode.
        cosine = max(min(dot(m, n) * inverse, 1.0), -1.0);
        sine = max(min(axis * dot(a, n) * inverse, 1.0), -1.0);
        inverse_mm = inverse_m * inverse_m;
        inverse_nn = inverse_n * inverse_n;
        overlap_i = dot(a, b) * inverse_bb;
        overlap_l = dot(c, b) * inverse_bb;
    }

    BGDIFF_INLINE void add_force(L torque, Vec3<L> &fi, Vec3<L> &fj, Vec3<L> &fk, Vec3<L> &fl) const {
        const L along = torque * axis;
        const Vec3<L> on_i = (along * inverse_mm) * m, on_l = (-along * inverse_nn) * n;
        const Vec3<L> shift = overlap_i * on_i - overlap_l * on_l;
        fi += on_i;
        fj -= on_i + shift;
        fk += shift - on_l;
        fl += on_l;
    }
};

// Σ_m C_m cos(m φ) + S_m sin(m φ) by the addition theorem, unrolled for the largest m there is.
template <int Order, class T, int W>
void add_torsions(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    L energy = 0.0;
    for (const Torsion<T> &t : p.torsions) {
        const TorsionAngle<L, T> phi(w.position[t.i], w.position[t.j], w.position[t.k], w.position[t.l]);
        L c = phi.cosine, s = phi.sine;  // of m φ
        L value = t.cosine[0] + t.cosine[1] * c + t.sine[1] * s, slope = t.sine[1] * c - t.cosine[1] * s;
#pragma GCC unroll 8
        for (int m = 2; m <= Order; ++m) {
            const L next = c * phi.cosine - s * phi.sine;
            s = s * phi.cosine + c * phi.sine;
            c = next;
            value += t.cosine[m] * c + t.sine[m] * s;
            slope += double(m) * (t.sine[m] * c - t.cosine[m] * s);
        }
        energy += value;
        phi.add_force(slope, w.force[t.i], w.force[t.j], w.force[t.k], w.force[t.l]);
    }
    w.energy.add(energy);
}

template <class T, int W>
void add_torsions(const Parameters<T> &p, Workspace<T, W> &w) {
    if (p.torsion_order <= 3)
        add_torsions<3>(p, w);
    else if (p.torsion_order == 4)
        add_torsions<4>(p, w);
    else
        add_torsions<kMaxPeriodicity>(p, w);
}

}  // namespace bgdiff
