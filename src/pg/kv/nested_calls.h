// What calls that nest through triggers have under way, innermost last: an error ends what was begun in its subtransaction or
// deeper.
#pragma once

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

// One of a kind: PostgreSQL calls back by its address, for as long as the backend lives.
template <typename T>
class NestedCalls {
public:
    void begin(const T &call, const char *cache_name)
    {
        if (!registered_) {
            RegisterXactCallback(entry<at_end>, this);
            RegisterSubXactCallback(entry<at_subabort>, this);
            registered_ = true;
        }
        if (depth_ == kDeepest)
            ereport(ERROR, errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
                    errmsg("triggers on cache \"%s\" call the functions of schema kv more than %d deep", cache_name, kDeepest));
        calls_[depth_++] = {call, GetCurrentSubTransactionId()};
    }
    void end() { --depth_; }
    const T *innermost() const { return depth_ > 0 ? &calls_[depth_ - 1].call : nullptr; }

    template <typename F>
    bool any(F &&is) const
    {
        for (int i = 0; i < depth_; ++i)
            if (is(calls_[i].call)) return true;
        return false;
    }

private:
    struct Begun {
        T call;
        SubTransactionId subtransaction;
    };
    static constexpr int kDeepest = 64;

    static void at_end(XactEvent, void *self) { static_cast<NestedCalls *>(self)->depth_ = 0; }
    static void at_subabort(SubXactEvent event, SubTransactionId id, SubTransactionId, void *self)
    {
        auto *calls = static_cast<NestedCalls *>(self);
        if (event != SUBXACT_EVENT_ABORT_SUB) return;
        while (calls->depth_ > 0 && calls->calls_[calls->depth_ - 1].subtransaction >= id) --calls->depth_;
    }

    Begun calls_[kDeepest] = {};
    int depth_ = 0;
    bool registered_ = false;
};

}  // namespace vkv::kv
