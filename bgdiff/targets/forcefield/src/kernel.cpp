// The C interface. This file is compiled once for each instruction set; hatch_build.py has the flags.

#include <new>

#include "force_field.hpp"
#include "interface.h"

#ifndef BGDIFF_SOURCES
#define BGDIFF_SOURCES "unknown"
#endif

struct bgdiff_force_field {
    std::unique_ptr<bgdiff::AnyForceField> self;
};

extern "C" {

int bgdiff_abi(void) { return BGDIFF_ABI; }

const char *bgdiff_sources(void) { return BGDIFF_SOURCES; }

int bgdiff_lanes(int single) { return single ? bgdiff::kLanes<float> : bgdiff::kLanes<double>; }

bgdiff_force_field *bgdiff_create(const bgdiff_tables *tables, int single) {
    try {
        auto handle = std::make_unique<bgdiff_force_field>();
        if (single)
            handle->self = std::make_unique<bgdiff::ForceField<float>>(*tables);
        else
            handle->self = std::make_unique<bgdiff::ForceField<double>>(*tables);
        return handle.release();
    } catch (...) {  // nothing but std::bad_alloc is thrown, and nothing may leave through a C interface
        return nullptr;
    }
}

void bgdiff_destroy(bgdiff_force_field *force_field) { delete force_field; }

int bgdiff_evaluate(bgdiff_force_field *force_field, const void *positions, int positions_single, int64_t n,
                    double scale, void *energy, void *force, int threads) {
    try {
        force_field->self->evaluate({positions, positions_single != 0, n, scale, energy, force, threads});
        return BGDIFF_OK;
    } catch (const std::bad_alloc &) {
        return BGDIFF_OUT_OF_MEMORY;
    } catch (...) {
        return BGDIFF_FAILED;
    }
}

}  // extern "C"
