// The helper program as a process: started with a control socket and a pipe for what it logs, in a session of its own, so that
// signals meant for the server's processes do not reach it. The kernel kills it when the supervisor ends, however that happens.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/offload/protocol.h"

namespace vkv::helper {

class Process {
public:
    Process() = default;
    ~Process();
    Process(const Process &) = delete;
    Process &operator=(const Process &) = delete;

    // arguments[0] is the program; "--control-fd N" is added. Throws Error(wrong_state).
    void start(std::vector<std::string> arguments);
    bool running() const { return pid_ > 0; }
    int pid() const { return pid_; }
    int control() const { return control_; }
    int errors() const { return errors_; }

    void signal(int number) noexcept;
    // The status as of waitpid, once it has ended. Collects it; the rest of what it logged can still be read.
    std::optional<int> ended();
    // Waits no longer for a process that was killed and does not end: nothing ends one in uninterruptible sleep. It is collected
    // whenever it does, by a later call of ended().
    void abandon() noexcept;
    void close_files() noexcept;

    // False when the socket takes none.
    bool send(const offload::Message &message) noexcept;
    // Nothing: none is there; false in *open once the helper has closed its side.
    std::optional<offload::Message> receive(bool *open) noexcept;
    // Calls line(text) for each line logged by now.
    void read_lines(const std::function<void(const std::string &)> &line);

private:
    int pid_ = 0, control_ = -1, errors_ = -1;
    std::string partial_;
    std::vector<int> abandoned_;
};

// In words: "exit code 1", "signal 9 (Killed)".
std::string describe_status(int status);

}  // namespace vkv::helper
