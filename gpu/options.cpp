// The command line, checked.
#include "gpu/options.h"

#include <charconv>
#include <cstring>
#include <stdexcept>

namespace vkv::gpu {

namespace {

class Reader {
public:
    Reader(int count, char **arguments) : count_(count), arguments_(arguments) {}

    bool next()
    {
        if (++at_ >= count_) return false;
        name_ = arguments_[at_];
        return true;
    }
    bool is(const char *name) const { return name_ == name; }
    const std::string &name() const { return name_; }
    std::string text()
    {
        if (at_ + 1 >= count_) throw std::runtime_error("option " + name_ + " needs a value");
        return arguments_[++at_];
    }
    uint64_t number(uint64_t least, uint64_t most)
    {
        const std::string value = text();
        uint64_t n = 0;
        const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
        if (error != std::errc() || end != value.data() + value.size() || n < least || n > most)
            throw std::runtime_error("option " + name_ + " is \"" + value + "\", should be a number from " + std::to_string(least) +
                                     " to " + std::to_string(most));
        return n;
    }

private:
    int count_;
    char **arguments_;
    int at_ = 0;
    std::string name_;
};

}  // namespace

Options read_options(int count, char **arguments)
{
    Options o;
    constexpr uint64_t kMegabyte = 1 << 20, kMost32 = UINT32_MAX;
    for (Reader r(count, arguments); r.next();) {
        if (r.is("--socket"))
            o.server.socket = r.text();
        else if (r.is("--control-fd"))
            o.server.control_fd = static_cast<int>(r.number(0, 1 << 20));
        else if (r.is("--device"))
            o.device.name = r.text();
        else if (r.is("--memory"))
            o.device.memory = r.number(0, 1 << 24) * kMegabyte;
        else if (r.is("--arena"))
            o.server.arena = r.number(2, 1 << 20) * kMegabyte;
        else if (r.is("--max-launch-tiles"))
            o.server.scheduler.max_launch_tiles = static_cast<uint32_t>(r.number(1, kMost32));
        else if (r.is("--batch-wait-us"))
            o.server.scheduler.batch_wait_us = r.number(0, 1000000);
        else if (r.is("--threads"))
            o.device.threads = static_cast<unsigned>(r.number(0, 1024));
        else if (r.is("--launch-delay-us"))
            o.device.launch_delay_us = r.number(0, 10000000);
        else if (r.is("--faults"))
            o.server.scheduler.faults = true;
        else if (r.is("--version"))
            o.version = true;
        else
            throw std::runtime_error("unknown option " + r.name());
    }
    if (o.server.socket.empty() && !o.version) throw std::runtime_error("option --socket is missing");
    return o;
}

}  // namespace vkv::gpu
