// The helper program: owns the device, serves backends. Started by the supervisor; exit codes are gpu::Exit.
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "gpu/log.h"
#include "gpu/options.h"
#include "gpu/server.h"

namespace {

using namespace vkv::gpu;

// Blocked before there are threads, so that none of them is interrupted.
int signals_as_descriptor()
{
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGQUIT, SIGHUP}) sigaddset(&set, signal);
    if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) throw std::runtime_error(std::string("sigprocmask: ") + std::strerror(errno));
    const int fd = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) throw std::runtime_error(std::string("signalfd: ") + std::strerror(errno));
    ::signal(SIGPIPE, SIG_IGN);  // who reads the log may be gone
    return fd;
}

// A descriptor for each client.
void raise_limits()
{
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
}

Exit serve(Options options)
{
    options.server.signal_fd = signals_as_descriptor();
    raise_limits();
    Server server(open_device(options.device), options.server);
    const Exit code = server.run();
    log("ends after %llu requests", static_cast<unsigned long long>(get(server.arena().header().requests)));
    if (server.stuck()) {
        server.unlink_socket();
        ::_exit(static_cast<int>(code));
    }
    return code;
}

}  // namespace

int main(int count, char **arguments)
{
    try {
        const Options options = read_options(count, arguments);
        if (options.version) {
            std::printf("vectorkv_helper, protocol %u\n", vkv::offload::kVersion);
            return 0;
        }
        return static_cast<int>(serve(options));
    } catch (const NoDevice &error) {
        log_as(Level::error, "%s", error.what());
        return static_cast<int>(Exit::no_device);
    } catch (const std::exception &error) {
        log_as(Level::error, "%s", error.what());
        return static_cast<int>(Exit::failed);
    }
}
