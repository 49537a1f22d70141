// The running state of sum(vector) and sum(halfvec): a value of the type, as the catalogue says, but expanded while the aggregate
// runs, with its sums in double precision. One that were rounded after each row would stand still at 2^24 (halfvec: 2^11). Whoever
// reads it as a value gets it rounded, once: PostgreSQL flattens it where it detoasts.
#pragma once

#include "core/error.h"
#include "core/text/limits.h"
#include "pg/types/dense.h"

namespace vkv {

struct SumState {
    ExpandedObjectHeader header;
    int dim;
    double *sums;  // [dim], finite in the type
};

template <typename Traits>
Size flat_sum_size(ExpandedObjectHeader *header)
{
    return Traits::size(reinterpret_cast<SumState *>(header)->dim);
}

template <typename Traits>
void flatten_sum(ExpandedObjectHeader *header, void *to, Size size)
{
    const auto *state = reinterpret_cast<SumState *>(header);
    auto *flat = static_cast<typename Traits::Struct *>(to);
    memset(flat, 0, size);
    SET_VARSIZE(flat, size);
    flat->dim = static_cast<int16_t>(state->dim);
    for (int i = 0; i < state->dim; ++i) flat->values()[i] = Traits::narrow(static_cast<float>(state->sums[i]));
}

// PostgreSQL calls them; they neither raise nor throw.
template <typename Traits>
inline constexpr ExpandedObjectMethods kSumMethods = {flat_sum_size<Traits>, flatten_sum<Traits>};

// The state behind this datum if it is one that we made and may change.
template <typename Traits>
SumState *sum_state(Datum datum)
{
    if (!VARATT_IS_EXTERNAL_EXPANDED_RW(DatumGetPointer(datum))) return nullptr;
    ExpandedObjectHeader *header = DatumGetEOHP(datum);
    return header->eoh_methods == &kSumMethods<Traits> ? reinterpret_cast<SumState *>(header) : nullptr;
}

template <typename Traits>
SumState *make_sum_state(MemoryContext parent, const typename Traits::Struct *first)
{
    MemoryContext context = AllocSetContextCreate(parent, "sum of vectors", ALLOCSET_START_SMALL_SIZES);
    const auto dim = static_cast<size_t>(first->dim);
    auto *state = static_cast<SumState *>(MemoryContextAlloc(context, sizeof(SumState) + dim * sizeof(double)));
    EOH_init_header(&state->header, &kSumMethods<Traits>, context);
    state->dim = first->dim;
    state->sums = reinterpret_cast<double *>(state + 1);
    for (size_t i = 0; i < dim; ++i) state->sums[i] = static_cast<double>(Traits::widen(first->values()[i]));
    return state;
}

// The transition and the combination of sum(): state + value. The state's overflow is that of the type.
template <typename Traits>
Datum add_to_sum(FunctionCallInfo fcinfo, MemoryContext aggregate)
{
    SumState *state = sum_state<Traits>(PG_GETARG_DATUM(0));
    if (!state) state = make_sum_state<Traits>(aggregate, argument<typename Traits::Struct>(fcinfo, 0));
    const auto *v = argument<typename Traits::Struct>(fcinfo, 1);
    check_same_dim(state->dim, v->dim, Traits::kName);
    for (int i = 0; i < v->dim; ++i) {
        state->sums[i] += static_cast<double>(Traits::widen(v->values()[i]));
        if (std::isinf(Traits::widen(Traits::narrow(static_cast<float>(state->sums[i]))))) throw_overflow();
    }
    return EOHPGetRWDatum(&state->header);
}

}  // namespace vkv
