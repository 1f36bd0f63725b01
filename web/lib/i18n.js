import { byId } from "./dom.js";

const KEY = "vivace.language";
const CODES = ["en", "zh-CN"];

/** Every text of every page: English, 中文. */
const TEXTS = {
  "nav.label": ["Pages", "页面"],
  "nav.console": ["Console", "控制台"],
  "nav.avatars": ["Avatars", "形象"],
  "nav.demo": ["Demo", "示例"],
  "nav.rtcpush": ["RTC", "RTC"],
  "nav.rtmp": ["RTMP", "RTMP"],
  "nav.docs": ["API", "接口"],
  "language.other": ["中文", "EN"],
  "title.console": ["Vivace console", "Vivace 控制台"],
  "title.avatars": ["Vivace avatars", "Vivace 数字人形象"],
  "title.demo": ["Vivace WebRTC demo", "Vivace WebRTC 示例"],
  "title.rtcpush": ["Vivace RTC push", "Vivace RTC 推流"],
  "title.rtmp": ["Vivace RTMP push", "Vivace RTMP 推流"],
  "title.docs": ["Vivace API", "Vivace 接口"],

  "stage.label": ["Presenter", "数字人"],
  "stage.lead": ["Say anything. See it spoken.", "输入一句话，数字人说给你听。"],
  "avatar": ["Avatar", "形象"],
  "avatar.default": ["Default", "默认形象"],
  "start": ["Start", "开始"],
  "start.again": ["Try again", "重新连接"],
  "start.wait": ["Connecting…", "连接中…"],
  "stop": ["Stop", "结束"],
  "status.idle": ["Not connected", "未连接"],
  "status.connecting": ["Connecting…", "连接中…"],
  "status.live": ["Live", "已连接"],
  "status.failed": ["No connection", "连接失败"],
  "mute": ["Mute", "静音"],
  "unmute": ["Unmute", "取消静音"],
  "volume": ["Volume", "音量"],
  "fullscreen": ["Full screen", "全屏"],
  "muted.hint": ["Tap for sound", "点此打开声音"],

  "chat.label": ["Conversation", "对话"],
  "chat.empty": ["What you say, and what the presenter says, appears here.", "你说的话和数字人的回答会显示在这里。"],
  "chat.user": ["You", "我"],
  "chat.presenter": ["Presenter", "数字人"],
  "chat.sources": ["From {names}", "资料来源：{names}"],
  "chat.copy": ["Copy the conversation", "复制对话"],
  "chat.copied": ["Copied", "已复制"],
  "chat.interrupted": ["interrupted", "已打断"],
  "chat.failed": ["not sent", "未发送"],
  "latency.total": ["after {s} s", "{s} 秒后"],
  "latency.endpointing": ["{s} pause", "停顿 {s}"],
  "latency.asr": ["{s} understood", "识别 {s}"],
  "latency.llm": ["{s} thought", "思考 {s}"],
  "latency.tts": ["{s} voiced", "合成 {s}"],
  "latency.render": ["{s} shown", "画面 {s}"],
  "talk": ["Microphone", "麦克风"],
  "talk.mode": ["How to talk", "说话方式"],
  "talk.free": ["Hands-free", "自由说话"],
  "talk.push": ["Push to talk", "按住说话"],
  "talk.level": ["Microphone level", "麦克风音量"],
  "talk.wait": ["One moment…", "请稍候…"],
  "talk.free.off": ["Press the microphone and talk", "点击麦克风，直接说话"],
  "talk.free.on": ["Listening", "正在听"],
  "talk.push.off": ["Hold the microphone and talk", "按住麦克风说话"],
  "talk.push.offKeys": ["Hold the microphone or Space", "按住麦克风或空格键说话"],
  "talk.push.on": ["Let go when done", "正在听，说完松开"],
  "voice": ["Voice", "声音"],
  "voice.default": ["Default voice", "默认声音"],
  "voice.own": ["Own voices", "自备声音"],
  "voice.other": ["Other", "其他"],
  "voice.preview": ["Hear this voice", "试听"],
  "voice.hush": ["Stop", "停止"],
  "mode": ["What to do with the text", "文字的用法"],
  "mode.echo": ["Read aloud", "朗读"],
  "mode.chat": ["Chat", "对话"],
  "interruptFirst": ["Interrupt on send", "发送时打断"],
  "text": ["Text", "文字"],
  "text.hint": ["Enter sends, Shift+Enter is a new line", "回车发送，Shift+回车换行"],
  "send": ["Send", "发送"],
  "interrupt": ["Interrupt", "打断"],
  "upload": ["Play an audio file", "播放音频文件"],
  "upload.drop": ["Drop an audio file to play it", "松开鼠标，播放音频"],
  "upload.cancel": ["Cancel", "取消"],
  "states": ["Picture", "画面"],
  "states.0": ["Speaking", "口播"],
  "states.1": ["Still", "静止"],
  "states.n": ["Action {n}", "动作 {n}"],
  "states.reinit": ["From its start", "从头播放"],
  "record": ["Record", "录制"],
  "record.stop": ["Stop recording", "停止录制"],
  "download": ["Download recording", "下载录像"],
  "diagnostics": ["Connection quality", "连接质量"],
  "plot.fps": ["Pictures", "帧率"],
  "plot.latency": ["Latency", "延迟"],
  "plot.jitter": ["Jitter", "抖动"],
  "plot.loss": ["Loss", "丢包"],
  "plot.rtt": ["round trip", "往返"],
  "plot.buffer": ["buffer", "缓冲"],
  "plot.video": ["picture", "画面"],
  "plot.audio": ["sound", "声音"],

  "demo.lead": ["The whole API in a few lines of script:", "几行脚本，用到全部接口："],
  "demo.source": ["read webrtcapi.js", "查看 webrtcapi.js"],
  "demo.log": ["Requests and events", "请求与事件"],

  "push.rtc": ["A stream pushed over WebRTC", "WebRTC 推流"],
  "push.rtmp": ["A stream pushed over RTMP", "RTMP 推流"],
  "push.lead": [
    "The server sends this presenter to your media server. Drive it from here, and watch it if you like.",
    "数字人的音视频由服务端推送到你的流媒体服务器。在这里驱动它，也可以在这里观看。",
  ],
  "push.session": ["Session", "会话"],
  "push.url": ["Address to watch (optional)", "播放地址（可选）"],
  "push.urlHint": ["WHEP address, or .m3u8 where the browser plays HLS", "WHEP 地址；浏览器支持 HLS 时可用 .m3u8"],
  "push.play": ["Watch", "观看"],
  "push.stopPlaying": ["Stop watching", "停止观看"],
  "speaking.yes": ["Speaking", "正在说话"],
  "speaking.no": ["Silent", "安静"],
  "speaking.unknown": ["No such session", "会话不存在"],
  "speaking.denied": ["Not allowed", "没有权限"],
  "speaking.away": ["Server away", "服务器无响应"],

  "docs.filter": ["Filter routes", "筛选接口"],
  "docs.routes": ["Routes", "接口列表"],
  "docs.token": ["Bearer token", "访问令牌"],
  "docs.parameters": ["Parameters", "参数"],
  "docs.request": ["Request body", "请求体"],
  "docs.responses": ["Responses", "响应"],
  "docs.curl": ["Example", "示例"],
  "docs.copy": ["Copy", "复制"],
  "docs.copied": ["Copied", "已复制"],
  "docs.try": ["Try it", "试一试"],
  "docs.body": ["Body", "请求体"],
  "docs.send": ["Send request", "发送请求"],
  "docs.required": ["required", "必填"],
  "docs.optional": ["optional", "可选"],
  "docs.default": ["default", "默认"],
  "docs.none": ["No route matches.", "没有匹配的接口。"],
  "docs.badJson": ["The body is not JSON.", "请求体不是合法的 JSON。"],

  "avatars.make": ["Make an avatar", "制作形象"],
  "avatars.advice": [
    "Film 10 to 30 seconds: one person who looks into the camera, lips closed, in even light, without a cut.",
    "拍摄 10 到 30 秒：一个人面向镜头，自然闭嘴，光线均匀，一镜到底。",
  ],
  "avatars.choose": ["Choose a video", "选择视频"],
  "avatars.id": ["Id: letters, digits, _ - .", "编号：字母、数字、_ - ."],
  "avatars.name": ["Name (optional)", "名称（可选）"],
  "avatars.consent": ["I may use this person's likeness.", "我有权使用此人的肖像。"],
  "avatars.start": ["Make the avatar", "开始制作"],
  "avatars.uploading": ["Upload", "上传"],
  "avatars.tasks": ["Avatars in the making", "制作任务"],
  "avatars.all": ["Avatars", "全部形象"],
  "avatars.talk": ["Talk", "对话"],
  "task.pending": ["Waiting", "排队中"],
  "task.running": ["Working", "制作中"],
  "task.completed": ["Done", "已完成"],
  "task.failed": ["Failed", "失败"],
  "task.looking": ["Looking for the face", "正在识别人脸"],
  "task.writing": ["Writing the avatar", "正在生成形象"],
  "task.forget": ["Remove", "移除"],
  "report.used": ["Used: {start} to {end} s of {seconds} s", "使用了 {seconds} 秒中的 {start}–{end} 秒"],
  "report.fine": ["Report: all {all} checks passed", "报告：{all} 项检查全部通过"],
  "report.wrong": ["Report: {n} of {all} checks need attention", "报告：{all} 项检查中有 {n} 项需要注意"],
  "report.yes": ["yes", "是"],
  "report.no": ["no", "否"],
  "report.no_face": ["No face", "没有人脸"],
  "report.several_faces": ["Several faces", "多张人脸"],
  "report.mouth_open": ["Mouth open", "张嘴"],
  "report.turned": ["Head turned away", "头部偏转"],
  "report.cut_off": ["Face cut off", "人脸出画"],
  "report.small": ["Width of the face", "人脸宽度"],
  "report.blurred": ["Sharpness", "清晰度"],
  "report.dark": ["Darkness", "亮度（过暗）"],
  "report.bright": ["Brightness", "亮度（过亮）"],
  "report.hdr": ["HDR", "HDR"],
  "report.cuts": ["Cuts", "跳切"],
  "report.length": ["Length", "时长"],
  "report.left_out": ["Left out", "未使用的部分"],

  "token.title": ["This server asks for a token", "服务器需要访问令牌"],
  "token.wrong": ["The server did not accept this token", "令牌无效，请重新输入"],
  "token.label": ["Bearer token, kept until this tab closes", "访问令牌（关闭标签页后清除）"],
  "token.ok": ["Continue", "继续"],
  "token.cancel": ["Cancel", "取消"],

  "dismiss": ["Dismiss", "关闭"],
  "error.full": [
    "All sessions of this server are taken. Try again when somebody has left.",
    "服务器会话数已达上限，请等其他人退出后再试。",
  ],
  "error.unreachable": [
    "The server does not answer. Is it running, and is this computer online?",
    "服务器没有响应。请确认服务已启动、网络正常。",
  ],
  "error.timeout": ["The server took too long to answer.", "服务器响应超时。"],
  "error.token": ["Without a valid token the server does not serve this.", "缺少有效的访问令牌，服务器拒绝了请求。"],
  "error.forbidden": ["This token does not allow that.", "该令牌没有此权限。"],
  "error.rate": ["Too many requests. Wait a moment.", "请求过于频繁，请稍候再试。"],
  "error.missing": ["The server does not have this:", "服务器上没有："],
  "error.refused": ["The server refused:", "服务器拒绝了请求："],
  "error.tooLarge": ["The file is too large:", "文件过大："],
  "error.notAudio": ["This is not an audio file.", "这不是音频文件。"],
  "error.cancelled": ["The upload was cancelled.", "上传已取消。"],
  "error.codec": [
    "This browser cannot decode the picture: it needs H.264 or VP8 over WebRTC.",
    "浏览器无法解码画面：需要支持 WebRTC 的 H.264 或 VP8。",
  ],
  "error.browser": ["The browser could not open the connection:", "浏览器无法建立连接："],
  "error.noMedia": [
    "The server answered, but no picture arrives. Most often a firewall drops UDP: open the server's UDP ports, or configure a TURN server.",
    "服务器已应答，但没有收到画面。通常是防火墙拦截了 UDP：请放行服务器的 UDP 端口，或配置 TURN 服务器。",
  ],
  "error.lost": [
    "The connection was lost; the server still answers. The network may have changed, or UDP is blocked.",
    "连接已断开，但服务器仍可访问。可能是网络发生切换，或 UDP 被拦截。",
  ],
  "error.closed": ["The server ended the session:", "服务器结束了会话："],
  "closed.idle": ["The session ended: nobody had spoken to the presenter for a while.", "长时间没有互动，会话已结束。"],
  "closed.shutdown": ["The session ended: the server is shutting down.", "服务器正在关闭，会话已结束。"],
  "closed.deleted": ["The session was ended from elsewhere.", "会话已被其他客户端结束。"],
  "error.presenter": ["The presenter reports:", "数字人报告："],
  "error.micDenied": [
    "The browser may not use the microphone. Allow it beside the address of this page, then press the microphone again.",
    "浏览器没有麦克风权限。请在地址栏旁允许使用麦克风，然后再点一次麦克风。",
  ],
  "error.micNone": [
    "There is no microphone. Connect one, then press the microphone again.",
    "没有找到麦克风。请接好麦克风，然后再点一次。",
  ],
  "error.micBusy": [
    "The microphone does not start. Another program may be using it.",
    "麦克风无法启动，可能正被其他程序占用。",
  ],
  "error.micLost": [
    "The microphone has gone: it was unplugged, or the browser may no longer use it. You can go on by typing.",
    "麦克风已断开：设备被拔出，或浏览器不再有权限。你仍可以打字继续。",
  ],
  "error.micInsecure": [
    "Browsers open the microphone only for pages over https, or of this computer (localhost). Ask whoever runs this server.",
    "浏览器只允许 https 页面或本机（localhost）页面使用麦克风。请联系服务器管理员。",
  ],
  "error.mic": ["The microphone does not start:", "麦克风无法启动："],
  "error.deaf": ["This server does not listen to microphones. You can type.", "此服务器不支持语音输入，请打字。"],
  "error.preview": ["The voice cannot be played:", "无法播放该声音："],
  "error.copy": ["The browser did not let the page copy:", "浏览器不允许复制："],
  "error.notStarted": ["Press Start first.", "请先点击“开始”。"],
  "error.empty": ["Write something first.", "请先输入文字。"],
  "error.stream": ["This address cannot be played:", "无法播放该地址："],
  "error.flv": [
    "Browsers do not play FLV or RTMP. Use the WHEP or HLS address of your media server.",
    "浏览器不能直接播放 FLV 或 RTMP，请使用流媒体服务器的 WHEP 或 HLS 地址。",
  ],
  "error.noHls": [
    "This browser does not play HLS. Use the WHEP address of your media server.",
    "此浏览器不支持 HLS，请使用流媒体服务器的 WHEP 地址。",
  ],
  "error.openapi": ["The API description could not be read.", "无法读取接口描述。"],
};

let chosen = initial();

/** The text `key` in the language of the page, `{name}` replaced by `values.name`. */
export const t = (key, values = {}) => TEXTS[key][chosen].replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** Let `node` say the text `key`, now and after the language changes. */
export function say(node, key, values = {}) {
  node.dataset.i18n = key;
  node.dataset.i18nValues = JSON.stringify(values);
  node.textContent = t(key, values);
}

/** Let `node` be called `key` by screen readers and in its tooltip. */
export function label(node, key) {
  node.dataset.i18nLabel = key;
  node.setAttribute("aria-label", t(key));
  node.title = t(key);
}

/** Translate all below `root`: `data-i18n` is its text, `-label` its name and tooltip, `-placeholder` its placeholder. */
export function translate(root = document) {
  for (const node of root.querySelectorAll("[data-i18n]")) say(node, node.dataset.i18n, JSON.parse(node.dataset.i18nValues ?? "{}"));
  for (const node of root.querySelectorAll("[data-i18n-label]")) label(node, node.dataset.i18nLabel);
  for (const node of root.querySelectorAll("[data-i18n-placeholder]")) node.placeholder = t(node.dataset.i18nPlaceholder);
}

/** Translate the page and wire its `#language` button. Every page calls it first. */
export function speakUsersLanguage() {
  const turn = () => {
    document.documentElement.lang = CODES[chosen];
    translate();
  };
  byId("language").addEventListener("click", () => {
    chosen = 1 - chosen;
    localStorage.setItem(KEY, CODES[chosen]);
    turn();
    dispatchEvent(new Event("languageturned"));
  });
  turn();
}

function initial() {
  const kept = CODES.indexOf(localStorage.getItem(KEY));
  return kept >= 0 ? kept : Number(navigator.language.startsWith("zh"));
}
