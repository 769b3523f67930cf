// The memory of one thread: the conformations of one tile, transposed so that lanes are contiguous.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <type_traits>

#include "parameters.hpp"
#include "simd.hpp"

namespace bgdiff {

// Aligned, uninitialised array.
template <class Item>
class Buffer {
    static_assert(std::is_trivially_copyable_v<Item>);

public:
    explicit Buffer(std::size_t size)
        : items_(static_cast<Item *>(::operator new(size * sizeof(Item) + kAlignment, std::align_val_t{kAlignment}))) {}
    ~Buffer() { ::operator delete(items_, std::align_val_t{kAlignment}); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    BGDIFF_INLINE operator Item *() const { return items_; }

private:
    static constexpr std::size_t kAlignment = 64;
    Item *items_;
};

// Energies are added up in float64: each row of pairs or list of bonded terms is summed in the kernel's precision.
template <int W>
struct Total {
    Lanes<double, W> sum = 0.0;

    template <class T>
    BGDIFF_INLINE void add(Lanes<T, W> part) {
        sum += convert<double>(part);
    }
};

// What pass 1 over the pairs leaves for the other two: explicit force / r, dI_i/dr / r, dI_j/dr / r.
template <class L>
struct PairState {
    L direct, descreening_i, descreening_j;
};

template <class T, int W>
struct Workspace {
    using L = Lanes<T, W>;

    explicit Workspace(const Parameters<T> &p)
        : position(p.n_atoms), force(p.n_atoms), pair(p.born ? p.pairs.size() : 0), integral(p.born ? p.n_atoms : 0),
          radius(p.born ? p.n_atoms : 0), inverse(p.born ? p.n_atoms : 0), chain(p.born ? p.n_atoms : 0) {}

    Buffer<Vec3<L>> position, force;
    Buffer<PairState<L>> pair;
    // Generalised Born, by atom: I_i and later dB_i/dI_i; B_i; 1/B_i; dU/dB_i and later dU/dI_i.
    Buffer<L> integral, radius, inverse, chain;
    Total<W> energy;
};

}  // namespace bgdiff
