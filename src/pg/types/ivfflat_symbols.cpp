// A database that was upgraded from pgvector still has its ivfflat access method and indexes, which look for these symbols.
// This library has no ivfflat: each symbol says so.

#include "core/error.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv {
namespace {

[[noreturn]] void refuse()
{
    throw Error(Errc::not_supported, "access method \"ivfflat\" is not supported by this version of the vector extension",
                "Drop ivfflat indexes and create hnsw indexes in their place.");
}

}  // namespace

SQL_FUNCTION(ivfflathandler) { refuse(); }

SQL_FUNCTION(ivfflat_halfvec_support) { refuse(); }

SQL_FUNCTION(ivfflat_bit_support) { refuse(); }

}  // namespace vkv
