from libc.stdint cimport uint32_t

from nutproxy.dispatch.batch cimport Transaction
from nutproxy.front.client cimport ClientConn
from nutproxy.msg.message cimport Msg

# Make the reply to EXEC from the replies of the batches and of nutproxy's own commands. The
# `finish` of the command.
cdef int put_together(Msg* msg) except -1
# The reply to EXEC of a transaction that needs no server. It may take MSG_NOREPLY out of the flags.
cdef bytes assembled(ClientConn client, Transaction transaction, uint32_t* flags)
