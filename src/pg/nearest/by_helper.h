// Blocks of rows compared by the helper program, where vectorkv.gpu and what it costs say so.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/nearest/nearest.h"
#include "core/nearest/offers.h"
#include "core/offload/client.h"

namespace vkv::nearest {

// For one search. Under `auto` the first block is compared here, which tells how long a block takes; from then on the helper is
// asked if it promises to take less, and no longer once it has taken more. Whatever ends in an answer of the CPU ends the asking.
class ByHelper {
public:
    explicit ByHelper(Search *search);

    // How many rows the helper may be given at a time.
    size_t most_rows() const;
    // Rows [n][dim] of the search. False: they are for the caller, who says afterwards how long that took.
    bool add(const uint8_t *rows, const RowId *ids, size_t n);
    void took_here(size_t n, uint64_t nanoseconds);

private:
    bool worth_asking() const;
    void ask(offload::Client *client);

    Search *search_;
    std::optional<Offers> offers_;  // once the helper is asked
    std::vector<Found> found_;
    bool over_ = false;
    double here_ns_ = 0;                    // a row
    double there_ns_ = 0, there_rows_ = 0;  // the helper's answers together
};

}  // namespace vkv::nearest
