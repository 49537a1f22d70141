// Random numbers of an index; see chance.h.

#include "pg/hnsw/chance.h"

#include "pg/boundary/boundary.h"
#include "pg/hnsw/hnsw.h"

namespace vkv::hnsw {

uint64_t new_index_seed(const std::vector<uint8_t> &model)
{
    const auto fixed = static_cast<uint64_t>(settings.build_seed);
    if (fixed != 0) return hash_bytes_extended(model.data(), static_cast<int>(model.size()), fixed);
    uint64_t seed;
    if (!pg_strong_random(&seed, sizeof(seed))) throw Error(Errc::internal, "no random number could be had");
    return seed;
}

double random_share(uint64_t of)
{
    if (settings.build_seed == 0) return pg_prng_double(&pg_global_prng_state);
    pg_prng_state state;
    pg_prng_seed(&state, of + static_cast<uint64_t>(settings.build_seed));
    return pg_prng_double(&state);
}

}  // namespace vkv::hnsw
