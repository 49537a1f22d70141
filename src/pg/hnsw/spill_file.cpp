// A temporary file of PostgreSQL's, mapped piece by piece. Reserved before use; unmapped by the destructor, closed by close() or
// with the transaction.

#include "pg/hnsw/spill_file.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "pg/hnsw/pages.h"

namespace vkv::hnsw {

SpillFile::~SpillFile()
{
    for (const Mapping &m : mappings_) munmap(m.address, m.bytes);
    // The file itself is closed and deleted with the transaction's resources; FileClose here would be PostgreSQL code in a
    // destructor.
}

void SpillFile::close()
{
    for (const Mapping &m : mappings_) munmap(m.address, m.bytes);
    mappings_.clear();
    if (file_ >= 0) pg_call([this] { FileClose(file_); });
    file_ = -1;
}

void *SpillFile::allocate(size_t bytes)
{
    constexpr size_t kAlign = 64 * 1024;
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    if (file_ < 0)
        file_ = pg_call([] {
            PrepareTempTablespaces();
            return OpenTemporaryFile(false);
        });
    if (temp_file_limit >= 0 && size_ + bytes > static_cast<size_t>(temp_file_limit) * 1024)
        pg_call([] {
            ereport(ERROR,
                    (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                     errmsg("temporary file size exceeds \"temp_file_limit\" (%dkB)", temp_file_limit),
                     errhint("Raise maintenance_work_mem, so that less of the hnsw graph is kept in a file, or temp_file_limit.")));
        });
    // PostgreSQL counts what goes through its own calls: so the session's other temporary files know of this one, and it of them.
    const size_t end = size_ + bytes;
    pg_call([&] {
        char last = 0;
        if (FileWrite(file_, &last, 1, static_cast<off_t>(end - 1), WAIT_EVENT_BUFFILE_WRITE) == 1) return;
        ereport(ERROR,
                (errcode_for_file_access(), errmsg("could not reserve %zu bytes of a temporary file for an hnsw graph: %m", bytes),
                 errhint("Free disk space, or raise maintenance_work_mem.")));
    });
    // Where many files are in use, PostgreSQL closes the least recently used ones behind its own numbers. Asking for the size opens
    // it again.
    const int fd = pg_call([this] { return FileSize(file_) < 0 ? -1 : FileGetRawDesc(file_); });
    int failed = fd < 0 ? errno : EINTR;
    while (fd >= 0 && failed == EINTR) {  // any signal ends it
        poll_interrupts();
        failed = posix_fallocate(fd, static_cast<off_t>(size_), static_cast<off_t>(bytes));
    }
    if (failed != 0)
        pg_call([&] {
            errno = failed;
            ereport(ERROR, (errcode_for_file_access(),
                            errmsg("could not reserve %zu bytes of a temporary file for an hnsw graph: %m", bytes),
                            errhint("Free disk space, or raise maintenance_work_mem.")));
        });
    void *address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(size_));
    if (address == MAP_FAILED)
        throw Error(Errc::out_of_memory,
                    "could not map " + std::to_string(bytes) + " bytes of a temporary file: " + std::strerror(errno));
    mappings_.push_back({address, bytes});
    size_ += bytes;
    return address;
}

}  // namespace vkv::hnsw
