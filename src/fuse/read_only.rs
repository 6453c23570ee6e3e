//! Owns the answer to every request that would change something: EROFS.
//! Does not know any other request, nor SETATTR, which [`super::touch`] has a use for.
//!
//! The mount is read-only, so the kernel refuses changes itself. Root can take that away (`mount -o remount,rw`), and then
//! they arrive here. fuser's own answers would be ENOSYS, EPERM and EOPNOTSUPP, by request.

/// The methods of fuser's `Filesystem` that change something.
macro_rules! refuse_changes {
    () => {
        $crate::fuse::read_only::refuse_changes! {
            mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
            mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
            unlink(INodeNo, &OsStr) -> ReplyEmpty;
            rmdir(INodeNo, &OsStr) -> ReplyEmpty;
            symlink(INodeNo, &OsStr, &std::path::Path) -> ReplyEntry;
            rename(INodeNo, &OsStr, INodeNo, &OsStr, fuser::RenameFlags) -> ReplyEmpty;
            link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
            write(INodeNo, FileHandle, u64, &[u8], fuser::WriteFlags, OpenFlags, Option<LockOwner>)
                -> fuser::ReplyWrite;
            setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
            removexattr(INodeNo, &OsStr) -> ReplyEmpty;
            create(INodeNo, &OsStr, u32, u32, i32) -> fuser::ReplyCreate;
            fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
            copy_file_range(INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, fuser::CopyFileRangeFlags)
                -> fuser::ReplyWrite;
        }
    };
    ($($request:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $request(&self, _request: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(errno(&Failure::ReadOnly));
        })*
    };
}
pub(super) use refuse_changes;
