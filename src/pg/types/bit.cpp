// Distances between PostgreSQL's own bit strings.

#include "core/error.h"
#include "core/simd/kernels.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/types.h"

namespace vkv {
namespace {

struct BitPair {
    explicit BitPair(FunctionCallInfo fcinfo) : a(PG_GETARG_VARBIT_P(0)), b(PG_GETARG_VARBIT_P(1))
    {
        if (VARBITLEN(a) != VARBITLEN(b)) {
            throw Error(Errc::data_exception, message("different bit lengths %u and %u", static_cast<unsigned>(VARBITLEN(a)),
                                                      static_cast<unsigned>(VARBITLEN(b))));
        }
    }
    size_t bytes() const { return VARBITBYTES(a); }
    const VarBit *a, *b;
};

}  // namespace

SQL_FUNCTION(hamming_distance)
{
    BitPair p(fcinfo);
    return Float8GetDatum(static_cast<double>(simd::kernels().hamming(VARBITS(p.a), VARBITS(p.b), p.bytes())));
}

// 1 if no bit is common, also when no bit is set at all
SQL_FUNCTION(jaccard_distance)
{
    BitPair p(fcinfo);
    uint64_t common, any;
    simd::kernels().and_or_count(VARBITS(p.a), VARBITS(p.b), p.bytes(), &common, &any);
    return Float8GetDatum(common == 0 ? 1.0 : 1.0 - static_cast<double>(common) / static_cast<double>(any));
}

}  // namespace vkv
