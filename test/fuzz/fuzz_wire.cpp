// The binary decoders on arbitrary bytes: header, then exactly the payload it promises, as the server hands it out. What decodes
// encodes to the same bytes. The first byte picks the type.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/text/limits.h"
#include "core/text/wire.h"

namespace {

void require(bool holds)
{
    if (!holds) std::abort();
}

// A copy of its own, so that the address sanitizer sees any read past the end. Null-sized if there is too little.
std::vector<uint8_t> take(vkv::Bytes *input, size_t size)
{
    if (input->size() < size) throw vkv::Error(vkv::Errc::invalid_binary, "insufficient data left in message");
    std::vector<uint8_t> bytes(input->begin(), input->begin() + static_cast<ptrdiff_t>(size));
    *input = input->subspan(size);
    return bytes;
}

template <typename Element, typename Decode, typename Encode>
void fuzz_dense(vkv::Bytes input, const char *type, Decode decode, Encode encode)
{
    vkv::Bytes whole = input;
    size_t dim = static_cast<size_t>(vkv::decode_dense_header(take(&input, vkv::kDenseHeaderBytes), type, -1));
    std::vector<uint8_t> payload = take(&input, dim * sizeof(Element));
    std::vector<Element> values(dim);
    decode(payload, values.data());
    std::vector<uint8_t> again(vkv::kDenseHeaderBytes + payload.size());
    encode(values, again.data());
    require(std::memcmp(again.data(), whole.data(), again.size()) == 0);
}

void fuzz_sparse(vkv::Bytes input)
{
    vkv::Bytes whole = input;
    vkv::SparseShape shape = vkv::decode_sparse_header(take(&input, vkv::kSparseHeaderBytes), -1);
    size_t nnz = static_cast<size_t>(shape.nnz);
    std::vector<uint8_t> payload = take(&input, 8 * nnz);
    std::vector<int32_t> indices(nnz);
    std::vector<float> values(nnz);
    vkv::decode_sparse(payload, shape, indices.data(), values.data());
    std::vector<uint8_t> again(vkv::kSparseHeaderBytes + payload.size());
    vkv::encode_sparsevec(shape, indices.data(), values.data(), again.data());
    require(std::memcmp(again.data(), whole.data(), again.size()) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    vkv::Bytes input(data + 1, size - 1);
    try {
        switch (data[0] % 3) {
            case 0:
                fuzz_dense<float>(input, vkv::kVectorName, vkv::decode_floats, vkv::encode_vector);
                break;
            case 1:
                fuzz_dense<uint16_t>(input, vkv::kHalfvecName, vkv::decode_halves, vkv::encode_halfvec);
                break;
            case 2:
                fuzz_sparse(input);
                break;
        }
    } catch (const vkv::Error &error) {
        require(!error.message().empty());
    }
    return 0;
}
