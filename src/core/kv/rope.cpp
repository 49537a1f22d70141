// Rotary position embedding of one vector, angles and products in double.
#include "core/kv/rope.h"

#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"

namespace vkv::kv {

Rope::Rope(std::vector<double> frequencies, int dim, Pairing pairing) : frequencies_(std::move(frequencies)), pairing_(pairing)
{
    if (frequencies_.size() > static_cast<size_t>(dim > 0 ? dim : 0) / 2)
        throw Error(Errc::invalid_parameter, std::to_string(frequencies_.size()) + " rotary frequencies turn " +
                                                 std::to_string(2 * frequencies_.size()) + " dimensions, but there are " +
                                                 std::to_string(dim));
    for (const double frequency : frequencies_)
        if (!turns(frequency)) throw Error(Errc::invalid_parameter, "rotary frequencies must be finite, and so must their angles");
}

bool Rope::turns(double frequency) { return std::isfinite(frequency * 0x1p32); }

std::vector<double> Rope::usual_frequencies(double theta, int dims)
{
    if (!(theta > 0) || !std::isfinite(theta))
        throw Error(Errc::invalid_parameter, "the base of rotary frequencies must be positive, not " + std::to_string(theta));
    if (dims < 0 || dims % 2 != 0)
        throw Error(Errc::invalid_parameter,
                    "rotary embedding turns pairs of dimensions, not " + std::to_string(dims) + " of them");
    std::vector<double> frequencies;
    for (int i = 0; i < dims; i += 2) frequencies.push_back(std::pow(theta, -static_cast<double>(i) / dims));
    return frequencies;
}

namespace {

void turn(const Rope &rope, float *x, double position)
{
    const size_t pairs = rope.frequencies().size();
    for (size_t i = 0; i < pairs; i++) {
        const double angle = position * rope.frequencies()[i], c = std::cos(angle), s = std::sin(angle);
        float &a = rope.pairing() == Pairing::interleaved ? x[2 * i] : x[i];
        float &b = rope.pairing() == Pairing::interleaved ? x[2 * i + 1] : x[i + pairs];
        const double u = a, v = b;
        a = static_cast<float>(u * c - v * s);
        b = static_cast<float>(u * s + v * c);
    }
}

}  // namespace

void Rope::rotate(float *x, int32_t position) const { turn(*this, x, position); }
void Rope::rotate_back(float *x, int32_t position) const { turn(*this, x, -static_cast<double>(position)); }

}  // namespace vkv::kv
