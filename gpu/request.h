// Requests as the helper knows them: copied out of the client's area and checked, so that nothing a client does to its area later
// can lead the helper anywhere.
#pragma once
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "core/offload/protocol.h"
#include "gpu/device.h"

namespace vkv::gpu {

// What is answered to the client that asked.
class Failure : public std::exception {
public:
    Failure(offload::FailureCode code, std::string text) : code_(code), text_(std::move(text)) {}
    // A message that does not belong here: who sends it has lost its place, and the connection ends.
    static Failure of_protocol(std::string text)
    {
        Failure failure(offload::FailureCode::malformed, std::move(text));
        failure.ends_connection_ = true;
        return failure;
    }
    offload::FailureCode code() const { return code_; }
    bool ends_connection() const { return ends_connection_; }
    const char *what() const noexcept override { return text_.c_str(); }

private:
    offload::FailureCode code_;
    std::string text_;
    bool ends_connection_ = false;
};

struct AttendParts {
    offload::AttendRequest head;
    std::vector<offload::Item> items;
    std::vector<offload::Span> spans;
    std::vector<offload::Entry> entries;

    Geometry geometry() const;
    uint64_t query_floats() const { return uint64_t{head.rows} * head.dim_k; }        // of a KV head
    uint64_t state_floats() const { return uint64_t{head.rows} * (2 + head.dim_v); }  // likewise
};

// The parts of the request of `bytes` bytes at the beginning of `area`; queries stay where they are. Throws Failure.
offload::RequestHeader read_header(const uint8_t *area, uint64_t area_bytes, uint64_t bytes);
void read_attend(const uint8_t *area, const offload::RequestHeader &header, AttendParts *out);
offload::NearestRequest read_nearest(const uint8_t *area, const offload::RequestHeader &header);

}  // namespace vkv::gpu
