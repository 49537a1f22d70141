// fork and exec. Between the two the child makes system calls only.

#include "pg/gpu/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "core/text/message.h"

namespace vkv::helper {

namespace {

constexpr int kControl = 3;  // in the helper
constexpr size_t kLongestLine = 1000;
constexpr int kLastWaits = 100, kLastWaitUs = 10000;

[[noreturn]] void fail(const std::string &what)
{
    const int code = errno;
    throw Error(Errc::wrong_state, what + ": " + strerror(code));
}

void close_from(int first)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, static_cast<unsigned>(first), ~0U, 0U) == 0) return;
#endif
    const long limit = sysconf(_SC_OPEN_MAX);
    for (int fd = first; fd < (limit > 0 ? limit : 1024); ++fd) ::close(fd);
}

struct Ends {
    int parent, control, errors;  // the supervisor's process id; what becomes fd 3 and fd 2
};

[[noreturn]] void become(char *const *arguments, Ends ends)
{
    for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != ends.parent) _exit(1);
    // Out of the way of the places they go to.
    const int control = fcntl(ends.control, F_DUPFD, 10), errors = fcntl(ends.errors, F_DUPFD, 10);
    const int nothing = open("/dev/null", O_RDWR);
    if (control < 0 || errors < 0 || nothing < 0) _exit(1);
    dup2(nothing, STDIN_FILENO);
    dup2(errors, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    dup2(control, kControl);
    close_from(kControl + 1);
    execv(arguments[0], arguments);
    dprintf(STDERR_FILENO, "error: could not execute %s: %s\n", arguments[0], strerror(errno));
    _exit(127);
}

// Signals wait until the child has its own handlers.
class Quiet {
public:
    Quiet()
    {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, &before_);
    }
    ~Quiet() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
    Quiet(const Quiet &) = delete;
    Quiet &operator=(const Quiet &) = delete;

private:
    sigset_t before_;
};

void close_one(int *fd) noexcept
{
    if (*fd >= 0) ::close(*fd);
    *fd = -1;
}

}  // namespace

Process::~Process()
{
    if (running()) {
        signal(SIGKILL);
        for (int i = 0; i < kLastWaits && waitpid(pid_, nullptr, WNOHANG) == 0; ++i) usleep(kLastWaitUs);
    }
    close_files();
}

void Process::close_files() noexcept
{
    close_one(&control_);
    close_one(&errors_);
    partial_.clear();
}

void Process::start(std::vector<std::string> arguments)
{
    const std::string program = arguments[0];
    if (access(program.c_str(), X_OK) != 0) fail("could not execute " + program);
    arguments.insert(arguments.end(), {"--control-fd", std::to_string(kControl)});
    std::vector<char *> pointers;
    for (std::string &argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    close_files();
    int control[2], errors[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, control) != 0) fail("could not make a socket");
    control_ = control[0];
    if (pipe2(errors, O_CLOEXEC | O_NONBLOCK) != 0) {
        ::close(control[1]);
        fail("could not make a pipe");
    }
    errors_ = errors[0];
    fcntl(errors[1], F_SETFL, 0);  // the helper's writes wait, as it expects of stderr
    fcntl(control[1], F_SETFL, 0);
    const Ends ends{getpid(), control[1], errors[1]};
    {
        const Quiet quiet;
        pid_ = fork();
        if (pid_ == 0) become(pointers.data(), ends);
    }
    const int code = errno;
    ::close(control[1]);
    ::close(errors[1]);
    errno = code;
    if (pid_ < 0) {
        pid_ = 0;
        fail("could not fork");
    }
}

void Process::signal(int number) noexcept
{
    if (running()) ::kill(pid_, number);
}

std::optional<int> Process::ended()
{
    int status = 0;
    std::erase_if(abandoned_, [](int pid) { return waitpid(pid, nullptr, WNOHANG) != 0; });
    if (!running() || waitpid(pid_, &status, WNOHANG) != pid_) return {};
    pid_ = 0;
    return status;
}

void Process::abandon() noexcept
{
    if (running()) abandoned_.push_back(pid_);
    pid_ = 0;
}

bool Process::send(const offload::Message &message) noexcept
{
    return control_ >= 0 &&
           ::send(control_, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(sizeof message);
}

std::optional<offload::Message> Process::receive(bool *open) noexcept
{
    *open = true;
    offload::Message message;
    for (;;) {
        const ssize_t got = recv(control_, &message, sizeof message, MSG_DONTWAIT);
        if (got == static_cast<ssize_t>(sizeof message)) return message;
        if (got < 0 && errno == EINTR) continue;
        *open = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        return {};
    }
}

void Process::read_lines(const std::function<void(const std::string &)> &line)
{
    char buffer[4096];
    for (;;) {
        const ssize_t got = read(errors_, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        for (ssize_t i = 0; i < got; ++i) {
            const char c = buffer[i];
            if (c != '\n') partial_.push_back(static_cast<unsigned char>(c) < 32 ? ' ' : c);
            if (partial_.empty() || (c != '\n' && partial_.size() < kLongestLine)) continue;
            line(partial_);
            partial_.clear();
        }
    }
}

std::string describe_status(int status)
{
    if (WIFSIGNALED(status)) return message("signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    return message("exit code %d", WEXITSTATUS(status));
}

}  // namespace vkv::helper
