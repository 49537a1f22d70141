// Where the random numbers of an index come from: the key of its hashes, the levels of its nodes, what vacuum looks at by chance.
//
// Random, they are the operating system's and the session's. vectorkv.build_seed, for tests, fixes them: then the same rows in the
// same order give the same graph. Whoever knows the key can make vectors whose hashes are equal, so it is a superuser's setting.
#pragma once

#include <cstdint>
#include <vector>

namespace vkv::hnsw {

// The seed of a new index. Fixed, it still differs where the model does: backends keep models by it.
uint64_t new_index_seed(const std::vector<uint8_t> &model);

// A number in [0, 1); fixed, another one for each `of`.
double random_share(uint64_t of);

}  // namespace vkv::hnsw
