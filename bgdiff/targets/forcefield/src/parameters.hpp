// A molecule's tables in the precision and the order in which the kernel reads them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "interface.h"

namespace bgdiff {

template <class T>
struct Bond {
    int i, j;
    T length, k;
};

template <class T>
struct Angle {
    int i, j, k;
    T angle, force_constant;
};

constexpr int kMaxPeriodicity = BGDIFF_MAX_PERIODICITY;

template <class T>
struct Torsion {
    int i, j, k, l;
    T cosine[kMaxPeriodicity + 1], sine[kMaxPeriodicity + 1];
};

struct Cmap {
    int atoms[8];
    std::size_t map;  // offset of its coefficients
};

template <class T>
struct Pair {
    T charge, c12, c6;
};

// What the generalised Born model needs of a pair i < j. From `far` on (a squared distance) both descreening
// integrals are in their series form.
template <class T>
struct BornPair {
    T far;
};

template <class T>
struct NeckPair {
    T distance_ij, strength_ij, cutoff_ij;  // what j adds to I_i
    T distance_ji, strength_ji, cutoff_ji;
};

template <class T>
struct BornAtom {
    T charge, offset_radius, scaled_radius, scaled_squared, scaled_cubed_half;
    T inverse_offset, inverse_radius, alpha, beta, gamma, surface;
};

template <class T>
struct Parameters {
    int n_atoms;
    std::vector<Bond<T>> bonds;
    std::vector<Angle<T>> angles;
    std::vector<Torsion<T>> torsions;
    int torsion_order = 0;  // the largest m of any cos(m φ)
    std::vector<Cmap> cmaps;
    std::vector<T> cmap_coefficients;
    int map_size;

    // Pairs sorted by their first atom: those of atom i are row_begin[i] ... row_begin[i + 1]. With a Born model,
    // which has no exclusions, they are all pairs, and those that do not interact directly have zero parameters.
    std::vector<int> row_begin, partner;
    std::vector<Pair<T>> pairs;

    bool born, rescaled, engulf, necks;
    T prefactor;
    std::vector<BornAtom<T>> born_atoms;
    std::vector<BornPair<T>> born_pairs;
    std::vector<NeckPair<T>> neck_pairs;

    explicit Parameters(const bgdiff_tables &t);

    // About how long a tile takes.
    double nanoseconds() const {
        const double bonded = 30.0 * double(angles.size() + torsions.size() + 4 * cmaps.size());
        return bonded + (born ? 35.0 : 12.0) * double(pairs.size());
    }

private:
    void add_bonded(const bgdiff_tables &t);
    void add_pairs(const bgdiff_tables &t);
    void add_born(const bgdiff_tables &t);
};

template <class T>
Parameters<T>::Parameters(const bgdiff_tables &t)
    : n_atoms(t.n_atoms), map_size(t.map_size), born(t.has_born != 0),
      rescaled(t.born_rescaled != 0), engulf(t.born_engulf != 0), necks(t.born_necks != 0),
      prefactor(T(t.born_prefactor)) {
    add_bonded(t);
    add_pairs(t);
    if (born) add_born(t);
}

template <class T>
void Parameters<T>::add_bonded(const bgdiff_tables &t) {
    for (int b = 0; b < t.n_bonds; ++b) {
        const int32_t *a = t.bond_atoms + 2 * b;
        bonds.push_back({a[0], a[1], T(t.bond_length[b]), T(t.bond_k[b])});
    }
    for (int b = 0; b < t.n_angles; ++b) {
        const int32_t *a = t.angle_atoms + 3 * b;
        angles.push_back({a[0], a[1], a[2], T(t.angle[b]), T(t.angle_k[b])});
    }
    for (int b = 0; b < t.n_torsions; ++b) {
        const int32_t *a = t.torsion_atoms + 4 * b;
        Torsion<T> torsion{a[0], a[1], a[2], a[3], {}, {}};
        for (int m = 0; m <= kMaxPeriodicity; ++m) {
            torsion.cosine[m] = T(t.torsion_cosine[b * (kMaxPeriodicity + 1) + m]);
            torsion.sine[m] = T(t.torsion_sine[b * (kMaxPeriodicity + 1) + m]);
            if (torsion.cosine[m] != 0 || torsion.sine[m] != 0) torsion_order = std::max(torsion_order, m);
        }
        torsions.push_back(torsion);
    }
    const std::size_t map_length = std::size_t(t.map_size) * t.map_size * 16;
    for (int b = 0; b < t.n_cmaps; ++b) {
        Cmap cmap{{}, map_length * t.cmap_index[b]};
        std::copy_n(t.cmap_atoms + 8 * b, 8, cmap.atoms);
        cmaps.push_back(cmap);
    }
    cmap_coefficients.assign(t.cmap_coefficients, t.cmap_coefficients + map_length * t.n_maps);
}

template <class T>
void Parameters<T>::add_pairs(const bgdiff_tables &t) {
    struct Entry {
        int i, j;
        double charge, c12, c6;
    };
    std::vector<Entry> entries;
    if (born)
        for (int i = 0; i < n_atoms; ++i)
            for (int j = i + 1; j < n_atoms; ++j) entries.push_back({i, j, 0, 0, 0});
    for (int p = 0; p < t.n_pairs; ++p) {
        const auto [i, j] = std::minmax(t.pair_atoms[2 * p], t.pair_atoms[2 * p + 1]);
        const Entry entry{i, j, t.pair_charge[p], t.pair_c12[p], t.pair_c6[p]};
        if (!born) {
            entries.push_back(entry);
            continue;
        }
        Entry &dense = entries[std::size_t(i) * n_atoms - std::size_t(i) * (i + 1) / 2 + (j - i - 1)];
        dense.charge += entry.charge;
        dense.c12 += entry.c12;
        dense.c6 += entry.c6;
    }
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry &a, const Entry &b) { return std::pair(a.i, a.j) < std::pair(b.i, b.j); });
    row_begin.assign(n_atoms + 1, 0);
    for (const Entry &e : entries) {
        ++row_begin[e.i + 1];
        partner.push_back(e.j);
        pairs.push_back({T(e.charge), T(e.c12), T(e.c6)});
    }
    for (int i = 0; i < n_atoms; ++i) row_begin[i + 1] += row_begin[i];
}

template <class T>
void Parameters<T>::add_born(const bgdiff_tables &t) {
    const int n = n_atoms;
    for (int i = 0; i < n; ++i) {
        const double s = t.born_scaled_radius[i], radius = t.born_radius[i], reach = radius + t.born_probe;
        born_atoms.push_back({T(t.born_charge[i]), T(t.born_offset_radius[i]), T(s), T(s * s), T(0.5 * s * s * s),
                              T(1 / t.born_offset_radius[i]), T(1 / radius), T(t.born_alpha[i]), T(t.born_beta[i]),
                              T(t.born_gamma[i]), T(t.born_surface * reach * reach * std::pow(radius, 6))});
    }
    for (int i = 0; i < n; ++i)
        for (int j = i + 1; j < n; ++j) {
            const double oi = t.born_offset_radius[i], oj = t.born_offset_radius[j];
            const double si = std::fabs(t.born_scaled_radius[i]), sj = std::fabs(t.born_scaled_radius[j]);
            const double r = std::max({oi + sj, oj + si, 2 * si, 2 * sj}) * (1 + 1e-6);
            born_pairs.push_back({T(r * r)});
            if (necks) {
                const std::size_t ij = std::size_t(i) * n + j, ji = std::size_t(j) * n + i;
                neck_pairs.push_back({T(t.neck_distance[ij]), T(t.neck_strength[ij]), T(t.neck_cutoff[ij]),
                                      T(t.neck_distance[ji]), T(t.neck_strength[ji]), T(t.neck_cutoff[ji])});
            }
        }
}

}  // namespace bgdiff
