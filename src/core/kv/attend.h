// Attention over tiles on the CPU: the algebra of mergeable states (online softmax, flash decoding).
//
// A state is, for every row of queries, m = the largest logit, l = sum exp(logit - m), o = sum exp(logit - m) * v (not divided by
// l). A row that has seen nothing is m = -inf, l = 0, o = 0. States of disjoint sets of tokens merge to the state of their union,
// in any order. logit = scale * <q, k>, through softcap * tanh(logit / softcap) when softcap > 0.
//
// Codes are never expanded to whole float tensors: halves are converted in registers; codes of 8 bits and less are multiplied as
// bytes where the processor has VNNI (queries and weights as three 8-bit digits, 24 bits), converted in registers where it has
// AVX2, else decoded 16 tokens at a time; codes of rotated tiles are looked up by byte shuffle, with the rotation applied once to
// the queries and once, inverse, to the sum. Error of a state against float64 on the decoded tile: 1e-5 relative at most. Every row
// of K and V is loaded once for all queries that share the KV head (for each four of them where they are many).
//
// Objects here belong to one thread. Buffers are kept and reused; nothing here knows PostgreSQL.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/kv/rope.h"
#include "core/kv/tile.h"

namespace vkv::kv {

// Whether the scores of a row of queries stay finite, whatever the tile. Queries::set refuses rows of which that is not so.
bool query_fits(const float *q, int dim, float scale);

// How many rows callers hand over at a time: what is done for them, and for them and a tile, takes a few milliseconds at most, and
// interrupts are looked for between.
inline constexpr int kMostQueryRows = 1024;

// The queries that share a KV head: rows = (query heads of the group) * (query positions). Forms that a codec needs (digits,
// rotated) are made when a tile first asks for them.
class Queries {
public:
    Queries();
    ~Queries();
    Queries(Queries &&) noexcept;
    Queries &operator=(Queries &&) noexcept;
    // q [rows][dim_k], copied; may be called again. Not finite: throws Error(data_exception).
    void set(const float *q, int rows, int dim_k, float scale, float softcap);
    int rows() const;
    int dim_k() const;
    struct Forms;
    Forms &forms() const { return *forms_; }

private:
    std::unique_ptr<Forms> forms_;
};

// Which stored positions a row may see: [first, last), and [0, sinks) below last.
struct Sight {
    int32_t first = 0, last = INT32_MAX;
};

struct Selection {
    int32_t from = 0, to = INT32_MAX;  // positions of the tile that count at all (a shared tile may be longer than the sequence)
    const Sight *sights = nullptr;     // [rows]; null: every row sees all of them
    int32_t sinks = 0;
    const Rope *rope = nullptr;  // required for tiles with kKeysBeforeRope
    const void *next = nullptr;  // where the tile that is added next lies, if that is known: it is fetched into the cache meanwhile
};

class Accumulator {
public:
    Accumulator();
    ~Accumulator();
    Accumulator(Accumulator &&) noexcept;
    Accumulator &operator=(Accumulator &&) noexcept;
    void reset(int rows, int dim_v);  // nothing seen yet
    // The tile's dims must be those of queries and accumulator; throws Error(data_exception) that names both otherwise.
    void add(const Queries &queries, const TileView &tile, const Selection &selection);
    // Adds a state over the same rows: m [rows], l [rows], o [rows][dim_v].
    void merge(const float *m, const float *l, const float *o);
    void state(float *m, float *l, float *o) const;  // any of them may be null
    // o / l and m + log l. A row that saw nothing: 0 and -inf.
    void finish(float *output, float *lse) const;  // [rows][dim_v], [rows]; either may be null
    size_t bytes() const;                          // of memory

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

// Logits of a tile's tokens, soft cap applied, unseen positions -inf: out [rows][tile.tokens].
void logits(const Queries &queries, const TileView &tile, const Selection &selection, float *out);

// Merges state b into a, in place; shapes as in Accumulator.
void merge_states(int rows, int dim_v, float *m, float *l, float *o, const float *m2, const float *l2, const float *o2);

}  // namespace vkv::kv
