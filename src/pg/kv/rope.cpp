// The type kv.rope: made of a cache's parameters or of the usual ones, and read; see rope.h.

#include "pg/kv/rope.h"

#include <cmath>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/kv/tile.h"
#include "core/poll.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/kv/arguments.h"
#include "pg/kv/cache.h"

namespace vkv::kv {
namespace {

constexpr const char *kPairings[] = {"half", "interleaved"};  // by Pairing

Pairing pairing_named(const char *name, const char *what)
{
    for (int i = 0; i < 2; ++i)
        if (strcmp(name, kPairings[i]) == 0) return static_cast<Pairing>(i);
    throw Error(Errc::invalid_parameter, message("%s must be 'half' or 'interleaved', not '%s'", what, name));
}

// A row of the type that the function returns.
Datum make_rope(FunctionCallInfo fcinfo, const double *frequencies, int n, Pairing pairing)
{
    auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(n)));
    for (int i = 0; i < n; ++i) elements[i] = Float8GetDatum(frequencies[i]);
    ArrayType *array = construct_array(elements, n, FLOAT8OID, sizeof(double), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
    Datum values[] = {PointerGetDatum(array), CStringGetTextDatum(kPairings[static_cast<int>(pairing)])};
    bool nulls[2] = {};
    return make_row(fcinfo, values, nulls);
}

}  // namespace

FrequencyList frequency_list(ArrayType *array, const char *name)
{
    if (ARR_NDIM(array) != 1 || array_contains_nulls(array))
        throw Error(Errc::invalid_parameter, message("%s must be one-dimensional and not null", name));
    const FrequencyList list{reinterpret_cast<const double *>(ARR_DATA_PTR(array)), ARR_DIMS(array)[0]};
    by_pieces(static_cast<size_t>(list.n), piece_of(sizeof(double)), look_for_interrupts, [&](size_t first, size_t count) {
        for (size_t i = first; i < first + count; ++i)
            if (!Rope::turns(list.values[i]))
                throw Error(Errc::invalid_parameter, message("%s[%zu] is %g", name, i + 1, list.values[i]));
    });
    return list;
}

RopeRow rope_row(const varlena *datum)
{
    HeapTupleHeader row = DatumGetHeapTupleHeader(PointerGetDatum(datum));
    bool null;
    RopeRow fields{};
    Datum value = GetAttributeByNum(row, 1, &null);
    if (!null) fields.frequencies = DatumGetArrayTypeP(value);
    value = GetAttributeByNum(row, 2, &null);
    if (!null) fields.pairing = TextDatumGetCString(value);
    return fields;
}

Rope rope_of(const RopeRow &row)
{
    if (row.frequencies == nullptr) throw Error(Errc::null_not_allowed, "rope.frequencies must not be null");
    if (row.pairing == nullptr) throw Error(Errc::null_not_allowed, "rope.pairing must not be null");
    const Pairing pairing = pairing_named(row.pairing, "rope.pairing");
    const FrequencyList list = frequency_list(row.frequencies, "rope.frequencies");
    if (list.n > kMaxHeadDim / 2)
        throw Error(Errc::invalid_parameter,
                    message("rope.frequencies has %d elements, should have at most %d", list.n, kMaxHeadDim / 2));
    return Rope({list.values, list.values + list.n}, kMaxHeadDim, pairing);
}

const varlena *rope_argument(FunctionCallInfo fcinfo, int i)
{
    const auto *given = reinterpret_cast<const varlena *>(PG_GETARG_POINTER(i));
    // What a pointer into memory leads to may change behind it: a variable of PL/pgSQL does.
    const bool in_memory = VARATT_IS_EXTERNAL(given) && !VARATT_IS_EXTERNAL_ONDISK(given);
    return in_memory ? reinterpret_cast<const varlena *>(PG_GETARG_HEAPTUPLEHEADER(i)) : given;
}

// kv.rope(cache): null when its keys are stored after the embedding.
SQL_FUNCTION(kv_rope_of_cache)
{
    SPI_connect();
    const Cache *cache = cache_of(PG_GETARG_OID(0));
    SPI_finish();
    if (!cache->before_rope || cache->rope == nullptr) PG_RETURN_NULL();
    const std::vector<double> &frequencies = cache->rope->frequencies();
    return make_rope(fcinfo, frequencies.data(), static_cast<int>(frequencies.size()), cache->rope->pairing());
}

// kv.rope(dims, theta, pairing)
SQL_FUNCTION(kv_rope_usual)
{
    const int dims = PG_GETARG_INT32(0);
    const double theta = PG_GETARG_FLOAT8(1);
    const Pairing pairing = pairing_named(text_argument(fcinfo, 2), "pairing");
    if (dims < 2 || dims > kMaxHeadDim || dims % 2 != 0)
        throw Error(Errc::invalid_parameter, message("dims must be an even number from 2 to %d, not %d", kMaxHeadDim, dims));
    if (!(theta > 1) || !std::isfinite(theta))
        throw Error(Errc::invalid_parameter, message("theta must be above 1, not %g", theta));
    const std::vector<double> frequencies = Rope::usual_frequencies(theta, dims);
    return pg_call([&] { return make_rope(fcinfo, frequencies.data(), static_cast<int>(frequencies.size()), pairing); });
}

}  // namespace vkv::kv
