from libc.stdint cimport uint32_t, uint64_t

from nutproxy.back.link cimport Link
from nutproxy.back.profile cimport Profile
from nutproxy.msg.message cimport Msg
from nutproxy.msg.parse cimport Arg

cdef enum:
    NO_GROUP = -1           # no server is live

cdef class Route:
    cdef readonly str name
    cdef int ngroups                   # groups are numbered from 0
    cdef readonly unsigned int version # changes when a key may have got another group
    cdef readonly bint anywhere        # every group can have every key

    # The group of a key, or NO_GROUP. Sets its hash, if that decides on the group.
    cdef int group_of(self, const char* key, size_t length, uint32_t* hash) except -2
    # Write the groups of `count` keys. The first is `arg`, each next one is `step` arguments further.
    # Returns 1 if a key has none, else 0.
    cdef int group(self, const char* data, const Arg* arg, uint32_t step, uint32_t count,
                   uint32_t* groups) except -1
    # Are all these arguments in this group? Asked if there are several groups, and not `anywhere`.
    cdef bint holds(self, int group, const char* data, const Arg* argv, const uint32_t* keys,
                    uint32_t count) except -1
    # Does a hash tag decide on the group of this key?
    cdef bint is_tagged(self, const char* key, size_t length) noexcept
    # The group of a request without a key.
    cdef int any_group(self) except -2
    # One of each kind of server, for a command for all: objects with `name` and `index`, the group.
    cpdef list members(self)
    # For a command that goes from one member to the next over many requests: a member's place stays
    # the same when others come or go, and in every process. The lowest place above `place`, whether
    # its member is live or not; 0 if there is none.
    cdef uint32_t place_after(self, uint32_t place) except? 0
    # The member at this place, as in `members`, live or not; None if there is none.
    cdef object member_at(self, uint32_t place)
    # Send a request, whose bytes are in `msg.req`, or answer it with an error.
    cdef int submit(self, Msg* msg, int group, uint64_t client, Profile profile) except -1
    # A link for the request of one client alone. None: the request has been answered with an error.
    cdef Link borrow(self, Msg* msg, int group, Profile profile)
    # Send a request over a borrowed link. `timed`: with the deadline of all requests.
    cdef int submit_to(self, Link link, Msg* msg, bint timed) except -1
