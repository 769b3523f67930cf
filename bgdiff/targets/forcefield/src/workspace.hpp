// The memory of one thread: the conformations of one tile, transposed so that lanes are contiguous.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

#include "parameters.hpp"
#include "simd.hpp"

namespace bgdiff {

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
class Workspace {
public:
    using L = Lanes<T, W>;

    explicit Workspace(const Parameters<T> &p) {
        const std::size_t n = p.n_atoms, born = p.born ? n : 0, pairs = p.born ? p.pairs.size() : 0;
        lay_out(nullptr, n, born, pairs);
        memory_.reset(static_cast<std::byte *>(::operator new(size_, kAlignment)));
        lay_out(memory_.get(), n, born, pairs);
    }

    Vec3<L> *position, *force;
    // Generalised Born, by atom: I_i and later dB_i/dI_i; B_i; 1/B_i; dU/dB_i and later dU/dI_i.
    L *integral, *radius, *inverse, *chain;
    PairState<L> *pair;
    Total<W> energy;

private:
    static constexpr std::align_val_t kAlignment{64};
    // A load waits for an earlier store whose address has the same last 12 bits. Loops that read one array and write
    // another must not run into that, so each array starts at another place in its 4096 bytes.
    static constexpr std::size_t kPage = 4096, kStagger = 35 * 64;

    // Without memory, only find out how much it takes.
    void lay_out(std::byte *memory, std::size_t n, std::size_t born, std::size_t pairs) {
        size_ = 0;
        std::size_t start = 0;
        const auto place = [&](auto *&array, std::size_t count) {
            size_ += (start + kPage - size_ % kPage) % kPage;
            if (memory) array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(memory + size_);
            size_ += count * sizeof(*array);
            start = (start + kStagger) % kPage;
        };
        place(position, n);
        place(force, n);
        place(integral, born);
        place(radius, born);
        place(inverse, born);
        place(chain, born);
        place(pair, pairs);
    }

    struct Free {
        void operator()(std::byte *memory) const { ::operator delete(memory, kAlignment); }
    };
    std::size_t size_ = 0;
    std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace bgdiff
