// CMAP: a bicubic surface over two torsion angles.
#pragma once

#include "bonded.hpp"

namespace bgdiff {

template <class L>
BGDIFF_INLINE L signed_angle(L cosine, L sine) {
    const L angle = atan2_upper(abs(sine), cosine);
    return L::if_less(sine, 0.0, -angle, angle);
}

// Each lane is in another cell of the map, so the surface itself is evaluated lane by lane.
template <class T, int W>
void add_cmaps(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    const int size = p.map_size;
    const double cells = size / (2 * kPi);
    L energy = 0.0;
    for (const Cmap &term : p.cmaps) {
        const auto at = [&](int k) -> Vec3<L> { return w.position[term.atoms[k]]; };
        const TorsionAngle<L, T> phi(at(0), at(1), at(2), at(3)), chi(at(4), at(5), at(6), at(7));
        const L x = signed_angle(phi.cosine, phi.sine) * cells, y = signed_angle(chi.cosine, chi.sine) * cells;
        L value, by_phi, by_chi;
        for (int l = 0; l < W; ++l) {
            // nan compares false and falls into cell 0, where it stays nan.
            const T xl = x.v[l] < 0 ? x.v[l] + size : x.v[l], yl = y.v[l] < 0 ? y.v[l] + size : y.v[l];
            const int s = xl > 0 ? std::min(int(xl), size - 1) : 0, t = yl > 0 ? std::min(int(yl), size - 1) : 0;
            const T u = xl - T(s), v = yl - T(t);
            const T *c = p.cmap_coefficients.data() + term.map + 16 * (std::size_t(s) * size + t);
            T sum = 0, du = 0, dv = 0;
            for (int a = 3; a >= 0; --a) {  // Horner in u; each coefficient is a cubic in v
                const T *row = c + 4 * a;
                du = du * u + sum;
                sum = sum * u + (((row[3] * v + row[2]) * v + row[1]) * v + row[0]);
                dv = dv * u + ((3 * row[3] * v + 2 * row[2]) * v + row[1]);
            }
            value.v[l] = sum;
            by_phi.v[l] = du;
            by_chi.v[l] = dv;
        }
        energy += value;
        const auto on = [&](int k) -> Vec3<L> & { return w.force[term.atoms[k]]; };
        phi.add_force(by_phi * cells, on(0), on(1), on(2), on(3));
        chi.add_force(by_chi * cells, on(4), on(5), on(6), on(7));
    }
    w.energy.add(energy);
}

}  // namespace bgdiff
