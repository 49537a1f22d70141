// The header row of a sequence, read and changed through the planner.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// Each holds a sealed token at least, and a fork or a cut adds one. All of them are read wherever the sequence is.
inline constexpr int kMostExtents = 65536;

struct Sequence {
    int64_t seq;
    int32_t length, sealed;
    int64_t epoch;
    int spans;
    const int64_t *extents;  // [spans]; the last one is the sequence's own
    const int32_t *stops;    // [spans], ascending; the last one is kOpenStop
    int64_t own() const { return extents[spans - 1]; }
};

int64_t new_id();

// Need an SPI connection; memory is that of `context`.
// Null when there is no such row, or none the caller may see.
Sequence *read_sequence(Cache *cache, int64_t seq, MemoryContext context);
// How many read_sequences would read; raises null_value_not_allowed for what is no list of numbers.
int count_sequences(ArrayType *seqs);
// In the order of seqs; raises undefined_object for one that is missing.
Sequence *read_sequences(Cache *cache, ArrayType *seqs, MemoryContext context);
// For who looks for faults: where the header is not sound, *fault says why, and what it holds is not to be used.
Sequence *inspect_sequence(Cache *cache, int64_t seq, MemoryContext context, const char **fault);
// As the next statement would see it, and not locked.
Sequence *peek_sequence(Cache *cache, int64_t seq, MemoryContext context);
// Locked until the transaction ends, in its newest version.
Sequence *lock_sequence(Cache *cache, int64_t seq, MemoryContext context);
Sequence *lock_sequence_or_raise(Cache *cache, int64_t seq, MemoryContext context);
// Null only when there is none that the caller sees; raises insufficient_privilege when there is one that he may not change.
Sequence *lock_sequence_if_any(Cache *cache, int64_t seq, MemoryContext context);
[[noreturn]] void may_not_be(const Cache *cache, int64_t seq, const char *done);
[[noreturn]] void too_many_extents(const Cache *cache, int64_t seq, int64_t named);
[[noreturn]] void no_sequence(const Cache *cache, int64_t seq);

// Elements of a one-dimensional array without nulls, by its size: nothing is read, so nothing is decompressed.
int64_t elements_of(Datum array, size_t element);

// Replaces spans: those below `stop`, then an extent of its own. Raises limit_exceeded where these would be too many.
void start_extent(const Cache *cache, Sequence *s, int32_t stop, MemoryContext context);

// More tokens of the same epoch, or more of them sealed: false when the row is not what `s` says (any more), which only happens to
// one that is not locked. Afterwards it is.
bool extend_sequence(Cache *cache, const Sequence *s, int32_t length, int32_t sealed);
void write_sequence(Cache *cache, const Sequence *s);
// False when there is a row of this number already.
bool insert_sequence(Cache *cache, const Sequence *s);
// Whether this transaction has done so: sequences that it sees may hold tokens that are not committed.
bool wrote_header();

// Tokens that are there: less than s->length when an unlogged tail was lost. `seen`: under the active snapshot, which must be the
// one that s was read under. `present`: for who holds the row's lock or is about to change it as it is, under one of this moment.
int32_t seen_length(Cache *cache, const Sequence *s);
int32_t present_length(Cache *cache, const Sequence *s);

// Deletes the tiles that a sequence has named until now and nobody names any more, where that is cheap to know and the caller may
// delete them; the rest waits for kv.collect. To be called after the header row was changed.
void free_tiles(Cache *cache, const Sequence *before);

// Runs a statement; returns how many rows it changed or returned. Unless read_only, it has a snapshot of its own, of this moment,
// and its AFTER triggers wait for end_change.
uint64_t run_plan(Cache *cache, Plan plan, Datum *values, bool read_only = false);
// The same, seeing what the active snapshot shows, and this transaction's own changes.
uint64_t run_plan_seeing(Cache *cache, Plan plan, Datum *values);

}  // namespace vkv::kv
