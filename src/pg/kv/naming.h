// Which header rows name an extent, whoever may see them and whether or not they are committed: what decides whether tiles may go.
//
// Nothing is locked for it. Whoever makes a header name extents of another (a fork) first writes the row and then looks whether the
// other still names them, or is about to cease (still_names). Whoever removes names first changes the row and then looks who
// else names the extents, counting rows of transactions that have not ended (reach_of, reaches_of). Both look at pages under
// their locks, so one of the two sees the other: the fork then waits or fails, the remover keeps the tiles. A name that is
// given while somebody looks comes from a row that named the extent before, and so on back to one that was there when the look
// began; hence a look at all rows once is enough, without waiting for anybody (kv.collect). Prepared transactions are like any
// others in progress, and what a subtransaction has rolled back counts for neither side.
#pragma once

#include "pg/kv/direct.h"
#include "pg/kv/sequence.h"

namespace vkv::kv {

// The header table for such looks, whatever the caller may read; false when it is not as kv.create_cache made it (another table
// access method, child tables): then nothing is freed, and forks need not care.
bool open_headers(const Cache *cache, DirectTable *headers);

// What the newest version of a row says of the extents below the last one of `copy`.
enum class Naming {
    sound,   // it names them as far as `copy` does
    gone,    // it does not, or there is no such row
    unsure,  // `writer` is about to remove it, or names of it
};
struct Look {
    Naming naming;
    TransactionId writer;
};
Look still_names(const DirectTable &headers, int64_t seq, const Sequence *copy);

// The highest stop that any row gives the extent; 0: no row names it. May be higher than that, and stops looking, as soon as it
// reaches `enough`. The active snapshot must be newer than the changes of this transaction; what they removed does not count. A row
// of more names than a sequence may have is not read: it may name the extent.
int32_t reach_of(const DirectTable &headers, int64_t extent, int32_t enough);

// The same of all extents at once. Raises data_corrupted for a row of more names than a sequence may have.
struct Reach {
    int64_t extent;
    int32_t stop;  // kOpenStop: some row's own extent
};
HTAB *reaches_of(const Cache *cache, const DirectTable &headers);  // of Reach, by extent

// The same of a sequence's extents only, as reach_of has it; null where it is cheaper to ask for each.
HTAB *reaches_of_sequence(const DirectTable &headers, const Sequence *s);
int32_t reach_in(HTAB *reaches, int64_t extent);

// A snapshot of this moment, in which the transaction's own changes are done.
void push_newest_snapshot();

}  // namespace vkv::kv
