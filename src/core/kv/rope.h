// Rotary position embedding: pairs of dimensions turned by position * frequency. Two pairings are in use:
// half (dims i and i + n/2, as in GPT-NeoX and Llama's published weights) and interleaved (dims 2i and 2i + 1, as in GPT-J).
#pragma once
#include <cstdint>
#include <vector>

namespace vkv::kv {

enum class Pairing : uint8_t { half = 0, interleaved = 1 };

class Rope {
public:
    // frequencies [dims / 2], radians a position; rotates the first 2 * frequencies.size() dims of dim, the rest stays.
    // Throws Error(invalid_parameter) when that is more than dim, or one of them does not turn.
    Rope(std::vector<double> frequencies, int dim, Pairing pairing);
    // theta ^ (-2 i / dims): the usual frequencies.
    static std::vector<double> usual_frequencies(double theta, int dims);

    // Whether the angle at every position is a number: frequencies beyond 1e298 or so have none.
    static bool turns(double frequency);

    int dims() const { return 2 * static_cast<int>(frequencies_.size()); }
    Pairing pairing() const { return pairing_; }
    const std::vector<double> &frequencies() const { return frequencies_; }
    void rotate(float *x, int32_t position) const;  // one vector [dim], in place; angles in double
    void rotate_back(float *x, int32_t position) const;

private:
    std::vector<double> frequencies_;
    Pairing pairing_;
};

}  // namespace vkv::kv
