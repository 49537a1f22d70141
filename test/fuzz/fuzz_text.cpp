// The text parsers on arbitrary bytes. What parses must satisfy the type's rules and read back the same from its printed values.
// The first byte picks the type.

#include <cinttypes>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/simd/half.h"
#include "core/text/parse.h"
#include "core/value.h"

namespace {

void require(bool holds)
{
    if (!holds) std::abort();
}

std::string print(float value)
{
    char text[32];
    std::snprintf(text, sizeof(text), "%.9g", static_cast<double>(value));
    return text;
}

void fuzz_vector(const std::string &text)
{
    std::vector<float> values(vkv::max_elements(text.c_str(), vkv::kMaxDim));
    int dim = vkv::parse_vector(text.c_str(), values.data());
    require(dim >= 1 && static_cast<size_t>(dim) <= values.size());
    std::string again = "[";
    for (int i = 0; i < dim; ++i) {
        require(std::isfinite(values[static_cast<size_t>(i)]));
        again += (i > 0 ? "," : "") + print(values[static_cast<size_t>(i)]);
    }
    std::vector<float> back(values.size());
    require(vkv::parse_vector((again + "]").c_str(), back.data()) == dim);
    require(std::memcmp(back.data(), values.data(), sizeof(float) * static_cast<size_t>(dim)) == 0);
}

void fuzz_halfvec(const std::string &text)
{
    std::vector<uint16_t> values(vkv::max_elements(text.c_str(), vkv::kMaxDim));
    int dim = vkv::parse_halfvec(text.c_str(), values.data());
    require(dim >= 1 && static_cast<size_t>(dim) <= values.size());
    std::string again = "[";
    for (int i = 0; i < dim; ++i) {
        float value = vkv::half_to_float(values[static_cast<size_t>(i)]);
        require(std::isfinite(value));
        again += (i > 0 ? "," : "") + print(value);
    }
    std::vector<uint16_t> back(values.size());
    require(vkv::parse_halfvec((again + "]").c_str(), back.data()) == dim);
    require(std::memcmp(back.data(), values.data(), sizeof(uint16_t) * static_cast<size_t>(dim)) == 0);
}

void fuzz_sparsevec(const std::string &text)
{
    std::vector<vkv::SparseElement> elements(vkv::max_elements(text.c_str(), vkv::kMaxSparseNnz));
    vkv::SparseShape shape = vkv::parse_sparsevec(text.c_str(), elements.data());
    require(shape.dim >= 1 && shape.nnz >= 0 && static_cast<size_t>(shape.nnz) <= elements.size());
    std::vector<int32_t> indices(static_cast<size_t>(shape.nnz));
    std::vector<float> values(static_cast<size_t>(shape.nnz));
    vkv::place_elements(elements.data(), shape, indices.data(), values.data());
    for (size_t i = 0; i < indices.size(); ++i) {
        require(indices[i] >= 0 && indices[i] < shape.dim && (i == 0 || indices[i] > indices[i - 1]));
        require(std::isfinite(values[i]) && values[i] != 0);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    std::string text(reinterpret_cast<const char *>(data + 1), size - 1);
    try {
        switch (data[0] % 3) {
            case 0:
                fuzz_vector(text);
                break;
            case 1:
                fuzz_halfvec(text);
                break;
            case 2:
                fuzz_sparsevec(text);
                break;
        }
    } catch (const vkv::Error &error) {
        require(!error.message().empty());
    }
    return 0;
}
