/* What of libcuda.so and libnccl.so the exchange of gradient sums calls, in the memory of ordinary processes: device memory is the
 * heap, streams are counters, and the network between members is Unix sockets. One library serves under both names.
 *
 * It is as unkind as the real ones may be: initialisation and groups go on in the background while calls answer "in progress", copies
 * wait for what is on the stream, and memory is freed only when nothing works on it any more.
 *
 * Environment: STANDIN_FOLDER holds the sockets, and `log`, which has a line for what each process did. STANDIN_DIE_AT=N has the process
 * stop in the middle of its N-th group of calls, after it has written a byte to the FIFO STANDIN_TELL. With STANDIN_SILENT nobody is told
 * of a member that is gone: its messages just do not come. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MEMBERS_MAX = 16, CALLS_MAX = 4 * MEMBERS_MAX, PATH_BYTES = 256, ID_BYTES = 128, FLOAT32 = 7 };
enum { CUDA_OK = 0, CUDA_INVALID = 1, CUDA_NOT_READY = 600 };
enum { OK = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, REMOTE_ERROR = 6, IN_PROGRESS = 7 };

/* ---- the log and the folder ---- */

static const char *folder(void) {
    const char *path = getenv("STANDIN_FOLDER");
    return path ? path : "/tmp";
}

static void tell(const char *what, long count) {
    char path[PATH_BYTES], line[PATH_BYTES];
    snprintf(path, sizeof path, "%s/log", folder());
    int length = snprintf(line, sizeof line, "%d %s %ld\n", (int)getpid(), what, count);
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file >= 0) {
        if (write(file, line, (size_t)length) < 0) perror("standin log");
        close(file);
    }
}

/* ---- libcuda ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* Streams are never freed: events may still name them. */
struct stream {
    uint64_t begun, done;
    struct stream *next;
};
static struct stream *streams;

struct event {
    struct stream *stream;
    uint64_t at;
};

static void drain(struct stream *stream) {
    pthread_mutex_lock(&lock);
    while (stream->done < stream->begun) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void drain_all(void) {
    pthread_mutex_lock(&lock);
    for (struct stream *stream = streams; stream; stream = stream->next)
        while (stream->done < stream->begun) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static _Thread_local void *current;
static int device;

int cuInit(unsigned flags) { return flags ? CUDA_INVALID : CUDA_OK; }
int cuDeviceGet(int *found, int ordinal) { *found = ordinal; return CUDA_OK; }
int cuDeviceGetAttribute(int *value, int attribute, int of) { (void)attribute; (void)of; *value = 0; return CUDA_OK; }
int cuDevicePrimaryCtxRetain(void **context, int of) { (void)of; *context = &device; return CUDA_OK; }
int cuDevicePrimaryCtxRelease_v2(int of) { (void)of; return CUDA_OK; }
int cuCtxGetCurrent(void **context) { *context = current; return CUDA_OK; }
int cuCtxSetCurrent(void *context) { current = context; return CUDA_OK; }
int cuCtxSynchronize(void) { drain_all(); return CUDA_OK; }

int cuStreamCreate(struct stream **made, unsigned flags) {
    (void)flags;
    struct stream *stream = calloc(1, sizeof *stream);
    pthread_mutex_lock(&lock);
    stream->next = streams;
    streams = stream;
    pthread_mutex_unlock(&lock);
    *made = stream;
    return CUDA_OK;
}
int cuStreamSynchronize(struct stream *stream) { drain(stream); return CUDA_OK; }
int cuStreamDestroy_v2(struct stream *stream) { (void)stream; return CUDA_OK; }
int cuStreamWaitEvent(struct stream *stream, struct event *event, unsigned flags) {
    (void)flags;
    /* One stream is all that the exchange has, and it is in order. */
    return !event->stream || event->stream == stream ? CUDA_OK : CUDA_INVALID;
}

int cuEventCreate(struct event **made, unsigned flags) { (void)flags; *made = calloc(1, sizeof **made); return CUDA_OK; }
int cuEventDestroy_v2(struct event *event) { free(event); return CUDA_OK; }
int cuEventRecord(struct event *event, struct stream *stream) {
    pthread_mutex_lock(&lock);
    event->stream = stream;
    event->at = stream->begun;
    pthread_mutex_unlock(&lock);
    return CUDA_OK;
}
int cuEventQuery(struct event *event) {
    pthread_mutex_lock(&lock);
    int is_over = !event->stream || event->stream->done >= event->at;
    pthread_mutex_unlock(&lock);
    return is_over ? CUDA_OK : CUDA_NOT_READY;
}

int cuMemAlloc_v2(uint64_t *made, size_t bytes) {
    if (!bytes) return CUDA_INVALID;
    *made = (uint64_t)(uintptr_t)malloc(bytes);
    return CUDA_OK;
}
int cuMemFree_v2(uint64_t memory) {
    drain_all();
    free((void *)(uintptr_t)memory);
    return CUDA_OK;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, struct stream *stream) {
    drain(stream);
    memset((void *)(uintptr_t)to, value, bytes);
    return CUDA_OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, struct stream *stream) {
    drain(stream);
    memcpy((void *)(uintptr_t)to, from, bytes);
    return CUDA_OK;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, struct stream *stream) {
    drain(stream);
    memcpy(to, (void *)(uintptr_t)from, bytes);
    return CUDA_OK;
}
int cuGetErrorName(int error, const char **text) { (void)error; *text = "CUDA_ERROR_OF_THE_STANDIN"; return CUDA_OK; }
int cuGetErrorString(int error, const char **text) { (void)error; *text = "an error of the stand-in"; return CUDA_OK; }

/* ---- libnccl ---- */

struct unique_id { char internal[ID_BYTES]; };

struct call {
    int is_send, peer;
    char *bytes;
    size_t count, moved;
};

struct communicator {
    int rank, size;
    char name[ID_BYTES];
    int sockets[MEMBERS_MAX];
    /* Written to, when the background has to look up from its sockets. */
    int wake[2];
    pthread_t background;
    /* Under `lock`. */
    int state, is_ended;
    struct call calls[CALLS_MAX];
    int call_count;
    struct stream *stream;
};

static int groups_begun;

static int has_ended(struct communicator *communicator) {
    pthread_mutex_lock(&lock);
    int is_ended = communicator->is_ended;
    pthread_mutex_unlock(&lock);
    return is_ended;
}

static void set_state(struct communicator *communicator, int state) {
    pthread_mutex_lock(&lock);
    communicator->state = state;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static struct sockaddr_un address_of(const char *name, int rank) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.60s/%.24s.%d", folder(), name, rank);
    return address;
}

/* Whole, or not at all when the communicator has ended or the other one is gone. */
static int move_whole(struct communicator *communicator, int socket, char *bytes, size_t count, int is_send) {
    for (size_t moved = 0; moved < count;) {
        struct pollfd polled[2] = {{socket, is_send ? POLLOUT : POLLIN, 0}, {communicator->wake[0], POLLIN, 0}};
        poll(polled, 2, -1);
        if (has_ended(communicator)) return 0;
        ssize_t step = is_send ? send(socket, bytes + moved, count - moved, MSG_DONTWAIT | MSG_NOSIGNAL)
                               : recv(socket, bytes + moved, count - moved, MSG_DONTWAIT);
        if (step > 0) moved += (size_t)step;
        else if (step == 0 || (errno != EAGAIN && errno != EINTR)) return 0;
    }
    return 1;
}

/* Connects every two members; the one with the higher rank calls. */
static int meet(struct communicator *communicator) {
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un own = address_of(communicator->name, communicator->rank);
    unlink(own.sun_path);
    if (listener < 0 || bind(listener, (struct sockaddr *)&own, sizeof own) || listen(listener, MEMBERS_MAX)) return 0;
    int met = 1;
    for (int rank = 0; rank < communicator->rank && met; rank++) {
        struct sockaddr_un other = address_of(communicator->name, rank);
        int socket_to = socket(AF_UNIX, SOCK_STREAM, 0);
        while (connect(socket_to, (struct sockaddr *)&other, sizeof other)) {
            struct pollfd wake = {communicator->wake[0], POLLIN, 0};
            poll(&wake, 1, 1);
            if (has_ended(communicator)) { close(listener); return 0; }
        }
        communicator->sockets[rank] = socket_to;
        met = move_whole(communicator, socket_to, (char *)&communicator->rank, sizeof(int), 1);
    }
    for (int missing = communicator->size - communicator->rank - 1; missing > 0 && met; missing--) {
        struct pollfd polled[2] = {{listener, POLLIN, 0}, {communicator->wake[0], POLLIN, 0}};
        poll(polled, 2, -1);
        if (has_ended(communicator)) { close(listener); return 0; }
        int rank = -1, socket_to = accept(listener, NULL, NULL);
        met = socket_to >= 0 && move_whole(communicator, socket_to, (char *)&rank, sizeof rank, 0);
        met = met && rank > communicator->rank && rank < communicator->size;
        if (met) communicator->sockets[rank] = socket_to;
    }
    close(listener);
    unlink(own.sun_path);
    return met;
}

/* The process ends here, by a signal that its parent sends when it reads the byte. */
static void die(struct communicator *communicator) {
    for (int index = 0; index < communicator->call_count; index++) {
        struct call *call = &communicator->calls[index];
        if (call->is_send) {
            move_whole(communicator, communicator->sockets[call->peer], call->bytes, call->count / 2, 1);
            break;
        }
    }
    int fifo = open(getenv("STANDIN_TELL"), O_WRONLY);
    if (write(fifo, "x", 1) != 1) perror("standin tell");
    for (;;) pause();
}

/* Moves all calls of a group at once; those of one member in their order. 0 when a member is gone. */
static int perform(struct communicator *communicator) {
    for (;;) {
        struct pollfd polled[CALLS_MAX + 1] = {{communicator->wake[0], POLLIN, 0}};
        struct call *of_poll[CALLS_MAX + 1];
        int count = 1, is_busy[MEMBERS_MAX][2] = {0};
        for (int index = 0; index < communicator->call_count; index++) {
            struct call *call = &communicator->calls[index];
            if (call->moved == call->count || is_busy[call->peer][call->is_send]) continue;
            is_busy[call->peer][call->is_send] = 1;
            polled[count] = (struct pollfd){communicator->sockets[call->peer], call->is_send ? POLLOUT : POLLIN, 0};
            of_poll[count++] = call;
        }
        if (count == 1) return 1;
        poll(polled, (nfds_t)count, -1);
        if (has_ended(communicator)) return 1;
        for (int index = 1; index < count; index++) {
            struct call *call = of_poll[index];
            if (!polled[index].revents) continue;
            char *bytes = call->bytes + call->moved;
            size_t rest = call->count - call->moved;
            ssize_t step = call->is_send ? send(polled[index].fd, bytes, rest, MSG_DONTWAIT | MSG_NOSIGNAL)
                                         : recv(polled[index].fd, bytes, rest, MSG_DONTWAIT);
            if (step > 0) call->moved += (size_t)step;
            else if (step == 0 || (errno != EAGAIN && errno != EINTR)) return 0;
        }
    }
}

static void *run(void *argument) {
    struct communicator *communicator = argument;
    int met = meet(communicator);
    set_state(communicator, met ? OK : SYSTEM_ERROR);
    if (met) tell("met", communicator->size);
    while (met) {
        pthread_mutex_lock(&lock);
        while (!communicator->call_count && !communicator->is_ended) pthread_cond_wait(&changed, &lock);
        int is_ended = communicator->is_ended, number = is_ended ? 0 : ++groups_begun;
        if (!is_ended) communicator->state = OK;
        pthread_mutex_unlock(&lock);
        if (is_ended) break;
        const char *die_at = getenv("STANDIN_DIE_AT");
        if (die_at && atoi(die_at) == number) die(communicator);
        int is_done = perform(communicator);
        long received = 0;
        for (int index = 0; index < communicator->call_count; index++)
            received += communicator->calls[index].is_send ? 0 : (long)communicator->calls[index].count;
        if (is_done && !has_ended(communicator)) tell("received", received);
        if (!is_done && !getenv("STANDIN_SILENT")) set_state(communicator, REMOTE_ERROR);
        pthread_mutex_lock(&lock);
        /* What is on the stream does not end where a member is gone. */
        while (!is_done && !communicator->is_ended) pthread_cond_wait(&changed, &lock);
        communicator->call_count = 0;
        communicator->stream->done++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

int ncclGetVersion(int *version) { *version = 22700; return OK; }
const char *ncclGetErrorString(int error) {
    switch (error) {
    case REMOTE_ERROR: return "a member of the stand-in is gone";
    case INVALID_ARGUMENT: return "the stand-in was called with what it does not take";
    default: return "an error of the stand-in";
    }
}

int ncclGetUniqueId(struct unique_id *id) {
    static int made;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%d-%d", (int)getpid(), ++made);
    return OK;
}

int ncclCommInitRankConfig(struct communicator **made, int size, struct unique_id id, int rank, void *config) {
    (void)config;
    if (size > MEMBERS_MAX || rank < 0 || rank >= size) return INVALID_ARGUMENT;
    struct communicator *communicator = calloc(1, sizeof *communicator);
    communicator->rank = rank;
    communicator->size = size;
    communicator->state = IN_PROGRESS;
    memcpy(communicator->name, id.internal, sizeof communicator->name);
    for (int other = 0; other < MEMBERS_MAX; other++) communicator->sockets[other] = -1;
    if (pipe(communicator->wake)) return SYSTEM_ERROR;
    if (pthread_create(&communicator->background, NULL, run, communicator)) return SYSTEM_ERROR;
    *made = communicator;
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(struct communicator *communicator, int *state) {
    pthread_mutex_lock(&lock);
    *state = communicator->state;
    pthread_mutex_unlock(&lock);
    return OK;
}

static int end(struct communicator *communicator, const char *how) {
    pthread_mutex_lock(&lock);
    communicator->is_ended = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (write(communicator->wake[1], "x", 1) != 1) return SYSTEM_ERROR;
    pthread_join(communicator->background, NULL);
    for (int other = 0; other < MEMBERS_MAX; other++)
        if (communicator->sockets[other] >= 0) close(communicator->sockets[other]);
    close(communicator->wake[0]);
    close(communicator->wake[1]);
    tell(how, communicator->size);
    free(communicator);
    return OK;
}

int ncclCommAbort(struct communicator *communicator) { return end(communicator, "aborted"); }
int ncclCommDestroy(struct communicator *communicator) { return end(communicator, "left"); }
int ncclCommFinalize(struct communicator *communicator) {
    pthread_mutex_lock(&lock);
    int is_busy = communicator->call_count > 0;
    pthread_mutex_unlock(&lock);
    return is_busy ? INVALID_ARGUMENT : OK;
}

static _Thread_local int depth, pending_count;
static _Thread_local struct call pending[CALLS_MAX];
static _Thread_local struct communicator *pending_of;
static _Thread_local struct stream *pending_on;

static int begin_pending(void) {
    int count = pending_count;
    pending_count = 0;
    if (!count) return OK;
    pthread_mutex_lock(&lock);
    int is_taken = pending_of->call_count > 0 || pending_of->state != OK;
    if (!is_taken) {
        memcpy(pending_of->calls, pending, sizeof pending);
        pending_of->call_count = count;
        pending_of->stream = pending_on;
        pending_on->begun++;
        pending_of->state = IN_PROGRESS;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return is_taken ? INVALID_ARGUMENT : IN_PROGRESS;
}

int ncclGroupStart(void) { depth++; return OK; }
int ncclGroupEnd(void) { return --depth ? OK : begin_pending(); }

static int append(int is_send, void *bytes, size_t count, int type, int peer, struct communicator *communicator, struct stream *stream) {
    if (type != FLOAT32 || pending_count == CALLS_MAX || peer < 0 || peer >= communicator->size || peer == communicator->rank)
        return INVALID_ARGUMENT;
    pending[pending_count++] = (struct call){is_send, peer, bytes, count * sizeof(float), 0};
    pending_of = communicator;
    pending_on = stream;
    return depth ? OK : begin_pending();
}

int ncclSend(void *from, size_t count, int type, int peer, struct communicator *communicator, struct stream *stream) {
    return append(1, from, count, type, peer, communicator, stream);
}
int ncclRecv(void *to, size_t count, int type, int peer, struct communicator *communicator, struct stream *stream) {
    return append(0, to, count, type, peer, communicator, stream);
}

int ncclAllGather(char *own, char *all, size_t count, int type, struct communicator *communicator, struct stream *stream) {
    size_t bytes = count * sizeof(float);
    int result = OK;
    depth++;
    memmove(all + (size_t)communicator->rank * bytes, own, bytes);
    for (int peer = 0; peer < communicator->size && result == OK; peer++) {
        if (peer == communicator->rank) continue;
        result = append(1, own, count, type, peer, communicator, stream);
        if (result == OK) result = append(0, all + (size_t)peer * bytes, count, type, peer, communicator, stream);
    }
    depth--;
    return result == OK && !depth ? begin_pending() : result;
}
