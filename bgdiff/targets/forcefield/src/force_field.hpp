// A molecule's force field, evaluated for batches of conformations: tiles of W conformations, shared by threads.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "born.hpp"
#include "cmap.hpp"
#include "threads.hpp"

namespace bgdiff {

// Copy `count` rows to lanes and back, W columns at a time. The last row is repeated where a tile has more lanes than
// there are rows.
template <class T, int W>
void rows_to_lanes(const T *rows, int count, int length, Lanes<T, W> *lanes) {
    int k = 0;
    for (; k + W <= length; k += W) {
        Lanes<T, W> block[W];
        for (int l = 0; l < W; ++l)
            block[l] = Lanes<T, W>::load(rows + std::size_t(std::min(l, count - 1)) * length + k);
        transpose(block);
        for (int c = 0; c < W; ++c) lanes[k + c] = block[c];
    }
    for (; k < length; ++k)
        for (int l = 0; l < W; ++l) lanes[k].v[l] = rows[std::size_t(std::min(l, count - 1)) * length + k];
}

template <class T, int W>
void lanes_to_rows(const Lanes<T, W> *lanes, int count, int length, T *rows) {
    int k = 0;
    for (; k + W <= length; k += W) {
        Lanes<T, W> block[W];
        for (int c = 0; c < W; ++c) block[c] = lanes[k + c];
        transpose(block);
        for (int l = 0; l < count; ++l) block[l].store(rows + std::size_t(l) * length + k);
    }
    for (; k < length; ++k)
        for (int l = 0; l < count; ++l) rows[std::size_t(l) * length + k] = lanes[k].v[l];
}

// One conformation per lane. Returns 0 in lanes whose coordinates are all finite, nan in the others.
//
// float32: coordinates are taken relative to the middle atom before they are rounded, because forces depend on
// differences only, and the rounding error of a difference grows with the distance from the origin.
template <class Input, class T, int W>
Lanes<T, W> read_tile(const Input *rows, int count, int n_atoms, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    constexpr bool centre = sizeof(T) == 4;
    const int length = 3 * n_atoms, middle = n_atoms / 2;
    L *lanes = reinterpret_cast<L *>(w.position);
    if constexpr (std::is_same_v<Input, T>) {
        rows_to_lanes(rows, count, length, lanes);
        const Vec3<L> origin = w.position[middle];
        if (centre)
            for (int a = 0; a < n_atoms; ++a) w.position[a] -= origin;
    } else {
        for (int l = 0; l < W; ++l) {
            const Input *row = rows + std::size_t(std::min(l, count - 1)) * length, *origin = row + 3 * middle;
            for (int k = 0; k < length; ++k) lanes[k].v[l] = T(centre ? row[k] - origin[k % 3] : row[k]);
        }
    }
    L invalid = 0.0;
    for (int k = 0; k < length; ++k) invalid += 0.0 * lanes[k];
    return invalid;
}

template <class T, int W>
void write_tile(T *rows, int count, int n_atoms, Lanes<T, W> scale, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    L *lanes = reinterpret_cast<L *>(w.force);
    for (int k = 0; k < 3 * n_atoms; ++k) lanes[k] *= scale;
    lanes_to_rows(lanes, count, 3 * n_atoms, rows);
}

template <class T, int W>
void evaluate_tile(const Parameters<T> &p, Workspace<T, W> &w) {
    using L = Lanes<T, W>;
    w.energy = {};
    for (int a = 0; a < p.n_atoms; ++a) w.force[a] = {L(0.0), L(0.0), L(0.0)};
    add_bonds(p, w);
    add_angles(p, w);
    add_torsions(p, w);
    add_cmaps(p, w);
    if (p.born)
        add_born(p, w);
    else
        add_pairs(p, w);
}

// What a caller asks for; see bgdiff_evaluate.
struct Request {
    const void *positions;
    bool positions_single;
    std::int64_t rows;
    double scale;
    void *energy, *force;
    int threads;
};

class AnyForceField {
public:
    virtual ~AnyForceField() = default;
    virtual void evaluate(const Request &request) = 0;
};

template <class T, int W = kLanes<T>>
class ForceField final : public AnyForceField {
public:
    explicit ForceField(const bgdiff_tables &tables) : parameters_(tables) {}

    ~ForceField() override {
        for (auto &slot : idle_) delete slot.load();
    }

    void evaluate(const Request &request) override {
        const std::int64_t tiles = (request.rows + W - 1) / W;
        std::atomic<std::int64_t> next{0};
        const auto work = [&](Workspace<T, W> &workspace) {
            for (std::int64_t tile; (tile = next.fetch_add(1)) < tiles;) evaluate(request, tile, workspace);
        };
        const int helpers = count_helpers(request.threads, tiles);
        // Workspaces first: after this nothing can fail for want of memory.
        std::vector<std::unique_ptr<Workspace<T, W>>> workspaces;
        for (int t = 0; t <= helpers; ++t) workspaces.push_back(borrow());
        if (helpers == 0) {
            work(*workspaces[0]);
        } else {
            std::atomic<int> arrived{0};
            Crew::of_process().run(helpers, [&] { work(*workspaces[arrived.fetch_add(1)]); });
        }
        for (auto &workspace : workspaces) give_back(std::move(workspace));
    }

private:
    void evaluate(const Request &request, std::int64_t tile, Workspace<T, W> &w) const {
        const int n = parameters_.n_atoms;
        const std::int64_t first = tile * W, offset = first * 3 * n;
        const int count = int(std::min<std::int64_t>(W, request.rows - first));
        const Lanes<T, W> invalid =
            request.positions_single
                ? read_tile(static_cast<const float *>(request.positions) + offset, count, n, w)
                : read_tile(static_cast<const double *>(request.positions) + offset, count, n, w);
        evaluate_tile(parameters_, w);
        w.energy.add(invalid);
        const Lanes<double, W> energy = request.scale * w.energy.sum;
        for (int l = 0; l < count; ++l) static_cast<T *>(request.energy)[first + l] = T(energy.v[l]);
        if (request.force)
            write_tile(static_cast<T *>(request.force) + offset, count, n, request.scale + invalid, w);
    }

    // No more threads than have something to do for longer than it takes to wake them up.
    int count_helpers(int threads, std::int64_t tiles) const {
        constexpr double wake_up = 2e4;  // ns
        const double useful = double(tiles) * parameters_.nanoseconds() / wake_up;
        return int(std::max(0.0, std::min({double(threads), double(tiles), 1 + useful}) - 1));
    }

    // Workspaces are kept for the next call. A slot is emptied and filled by one atomic exchange, so there is no
    // lock that a fork could catch in the hands of a thread that the child does not have.
    std::unique_ptr<Workspace<T, W>> borrow() {
        for (auto &slot : idle_)
            if (auto *workspace = slot.exchange(nullptr)) return std::unique_ptr<Workspace<T, W>>(workspace);
        return std::make_unique<Workspace<T, W>>(parameters_);
    }

    void give_back(std::unique_ptr<Workspace<T, W>> workspace) {
        for (auto &slot : idle_) {
            Workspace<T, W> *empty = nullptr;
            if (slot.compare_exchange_strong(empty, workspace.get())) {
                workspace.release();
                return;
            }
        }
    }

    const Parameters<T> parameters_;
    std::atomic<Workspace<T, W> *> idle_[64] = {};
};

}  // namespace bgdiff
