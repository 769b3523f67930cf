/* Plain C interface of the batched force-field kernel; bgdiff/targets/forcefield/kernel.py is its other side.
 *
 * Units are nm, kJ/mol, e and radian. Arrays are contiguous, int32 or float64, and copied at creation. Change
 * BGDIFF_ABI with any change to this file. */
#ifndef BGDIFF_INTERFACE_H
#define BGDIFF_INTERFACE_H

#include <stdint.h>

#define BGDIFF_ABI 1
#define BGDIFF_MAX_PERIODICITY 6

#define BGDIFF_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t n_atoms, n_bonds, n_angles, n_torsions, n_cmaps, n_pairs;
    int32_t n_maps, map_size;     /* coefficient sets of the CMAP terms, and cells along one axis */
    int32_t has_born, born_rescaled, born_engulf, born_necks;

    const int32_t *bond_atoms;    /* (n_bonds, 2) */
    const double *bond_length, *bond_k;
    const int32_t *angle_atoms;   /* (n_angles, 3) */
    const double *angle, *angle_k;
    const int32_t *torsion_atoms; /* (n_torsions, 4) */
    const double *torsion_cosine, *torsion_sine; /* (n_torsions, BGDIFF_MAX_PERIODICITY + 1) */
    const int32_t *cmap_atoms, *cmap_index; /* (n_cmaps, 8), (n_cmaps) */
    const double *cmap_coefficients;        /* (n_maps, map_size, map_size, 4, 4) */
    const int32_t *pair_atoms;    /* (n_pairs, 2) */
    const double *pair_charge, *pair_c12, *pair_c6;

    /* (n_atoms) each, then (n_atoms, n_atoms) each; read only with has_born and born_necks */
    const double *born_charge, *born_offset_radius, *born_scaled_radius, *born_radius;
    const double *born_alpha, *born_beta, *born_gamma;
    const double *neck_distance, *neck_strength, *neck_cutoff;
    double born_prefactor, born_surface, born_probe;
} bgdiff_tables;

typedef struct bgdiff_force_field bgdiff_force_field;

enum { BGDIFF_OK = 0, BGDIFF_OUT_OF_MEMORY = 1, BGDIFF_FAILED = 2 };

/* What the library was built from: BGDIFF_ABI and a digest of the sources. */
BGDIFF_API int bgdiff_abi(void);
BGDIFF_API const char *bgdiff_sources(void);
/* Conformations computed on together. */
BGDIFF_API int bgdiff_lanes(int single);

/* NULL when memory is short. single: compute in float32, else in float64. */
BGDIFF_API bgdiff_force_field *bgdiff_create(const bgdiff_tables *tables, int single);
BGDIFF_API void bgdiff_destroy(bgdiff_force_field *force_field);

/* Energies and forces of n conformations.
 *
 * positions: (n, n_atoms, 3), float32 if positions_single, else float64. energy: (n) and force: (n, n_atoms, 3), in
 * the precision of the force field; both are multiplied by scale, and force may be NULL. A row that holds a nan
 * or an infinity becomes nan. Rows do not influence each other: neither the other rows nor the number of threads
 * change a bit of a result. Any number of threads may call this on the same force field at the same time. */
BGDIFF_API int bgdiff_evaluate(bgdiff_force_field *force_field, const void *positions, int positions_single,
                               int64_t n, double scale, void *energy, void *force, int threads);

/* 4, 3 or 2 where this processor and its operating system have what variants v4, v3 and v2 are compiled for; else 0.
 * It is the one function of a library of its own, which runs on every processor of the architecture. */
BGDIFF_API int bgdiff_cpu_level(void);

#ifdef __cplusplus
}
#endif

#endif
